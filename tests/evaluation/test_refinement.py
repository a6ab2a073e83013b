"""The fourth question: an image and a coarse DEM, scored against the mean-keeping spline."""

import numpy as np
import pytest
import xarray as xr

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import NoElevation, WrongShape
from sat2dem_core.evaluation.refinement import (
    BORDER, CLASSICAL, ask, color_regression, is_fair, score, standardized,
)
from sat2dem_core.rasters.coarse import detail


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    return open_scene()


@pytest.fixture(scope="module")
def question(scene):
    return ask(scene, 11)


def test_the_coarse_dem_is_the_truth_s_mean_over_whole_cells(question, scene):
    assert question.truth.shape == (253, 275) and question.cells.shape == (23, 25)
    assert question.cells[2, 3] == pytest.approx(scene.dem.values[22:33, 33:44].mean())
    assert question.azimuth == scene.attrs["sun_azimuth"]


def test_no_method_reads_the_truth(question, scene):
    """With the same cells, another truth gives the same answer."""
    other = ask(scene, 11)
    assert other.cells.size and other.spline.size  # computed from the truth before it changes
    other.truth[:] = 0
    for name, refine in CLASSICAL.items():
        np.testing.assert_array_equal(refine(question), refine(other), err_msg=name)
    refine = color_regression([question])
    np.testing.assert_array_equal(refine(question), refine(other))


def test_every_method_keeps_the_means_but_plain_interpolation(question):
    means = {name: question.grid.means(refine(question)) for name, refine in CLASSICAL.items()}
    errors = {name: np.abs(values - question.cells) for name, values in means.items()}
    assert errors["spline"].mean() < 0.1 * errors["bicubic"].mean() < 0.2 * errors["bilinear"].mean()
    colors = question.grid.means(color_regression([question])(question)) - question.cells
    assert np.abs(colors).mean() < 0.3 * errors["bicubic"].mean()


def test_scores_are_those_of_pixels_within_the_border(question):
    worse = question.truth + 5.0
    worse[:BORDER] = 9999
    scores = score(question, worse)
    assert scores["MAE"] == scores["bias"] == pytest.approx(5, abs=1e-3)
    assert scores["NMAD"] == pytest.approx(0, abs=1e-3) and scores["slope MAE"] == pytest.approx(0, abs=1e-2)
    assert scores["pixels"] == (253 - 2 * BORDER) * (275 - 2 * BORDER)
    assert all(scores[name] == pytest.approx(5, abs=1e-3) for name in scores if name.startswith("MAE, slope"))


def test_voids_do_not_count(scene):
    holes = scene.copy(deep=True)
    holes["dem"][40:90, 40:90] = np.nan
    question = ask(holes, 11)
    assert np.isnan(question.cells).any()
    scores = score(question, CLASSICAL["spline"](question))
    assert scores["pixels"] == (253 - 2 * BORDER) * (275 - 2 * BORDER) - 50 * 50 and np.isfinite(scores["MAE"])


def test_a_regression_that_saw_the_answer_is_better_than_the_spline(scene):
    """Where color tells the relief, which is made so here."""
    made = scene.copy(deep=True)
    fine = np.random.default_rng(0).normal(0, 20, made.dem.shape)
    made["dem"] = made.dem * 0 + 1000 + fine
    made["rgb"] = made.rgb.copy(data=np.repeat((128 + fine).clip(0, 255).astype(np.uint8)[None], 3, 0))
    question = ask(made, 11)
    ratio = score(question, color_regression([question])(question))["MAE"] / score(question, question.spline)["MAE"]
    assert ratio < 0.2


@pytest.mark.parametrize(("k", "pixel", "dem_pixel", "fair"), [
    (3, 30, 30, True), (3, 30, 90, False), (11, 30, 90, True), (3, 30, 31, True), (11, 180, 120, True),
    (3, 146, 233, False),
])
def test_a_question_is_fair_where_the_truth_has_finer_relief_than_the_cells(k, pixel, dem_pixel, fair):
    assert is_fair(k, pixel, dem_pixel) == fair


def test_a_cell_larger_than_the_scene_is_refused(scene):
    with pytest.raises(WrongShape, match="rocky-mountain is 263 x 279 px, and cells of 200 px .* give smaller cells"):
        ask(scene, 200)


def test_a_scene_without_a_known_cell_is_refused(scene):
    with pytest.raises(NoElevation, match="rocky-mountain has no cell of 11 px of which half is known"):
        ask(scene.assign(dem=scene.dem * np.nan), 11)


def test_standardized_blocks_have_unit_spread():
    image = np.random.default_rng(0).integers(0, 255, (3, 256, 128), dtype=np.uint8)
    blocks = standardized(image)
    assert np.abs(blocks).max() <= 3 and blocks[:, :128].std() == pytest.approx(1, abs=1e-6)
    assert not standardized(np.full((3, 64, 64), 7, np.uint8)).any()


def test_detail_has_no_means(question):
    part = np.random.default_rng(1).normal(0, 10, question.truth.shape)
    assert np.abs(question.grid.means(detail(part, question.grid))).max() < 0.3
