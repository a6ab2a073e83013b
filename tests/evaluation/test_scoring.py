"""Scores of models that know the truth, and of baselines, in meters."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import NoTiles, UnknownName
from sat2dem_core.evaluation import scoring
from sat2dem_core.evaluation.baselines import tile_mean
from sat2dem_core.evaluation.measures import CLASSES
from sat2dem_core.evaluation.scoring import QUESTIONS, elevations, evaluate, fit_baselines, to_target, trained_question


def tiles(seed: int, count: int = 3, size: int = 32) -> torch.Tensor:
    """Made-up terrain (N, T, T), meters, tens of pixels wide."""
    rough = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return 1500 + 300 * torch.nn.functional.interpolate(rough, size, mode="bicubic").squeeze(1)


@given(constant=st.floats(-2000, 2000), seed=st.integers(0, 99), question=st.sampled_from(["relief", "above minimum"]))
def test_adding_a_constant_changes_neither_relief_nor_height_above_the_minimum(constant, seed, question):
    dem = tiles(seed).double()
    dem[0, :4] = torch.nan
    torch.testing.assert_close(to_target(dem + constant, question), to_target(dem, question), equal_nan=True)


def test_questions_take_mean_or_minimum_of_each_tile():
    nan = torch.nan
    dem = torch.tensor([[[1.0, 3.0, nan]], [[10.0, 40.0, 10.0]]])
    expected = {
        "absolute": dem,
        "above minimum": torch.tensor([[[0.0, 2, nan]], [[0, 30, 0]]]),
        "relief": torch.tensor([[[-1.0, 1, nan]], [[-10, 20, -10]]]),
    }
    for question in QUESTIONS:
        torch.testing.assert_close(to_target(dem, question), expected[question], equal_nan=True)
    assert tile_mean(dem).flatten().tolist() == [2, 20]


def test_unknown_question_lists_the_valid_ones():
    with pytest.raises(UnknownName, match="unknown question 'slope': choose one of absolute, above minimum, relief"):
        to_target(tiles(0), "slope")


class Oracle:
    """A model that knows the normalized truth, off by ``error`` meters at every pixel."""

    def __init__(self, config, normalization: Normalization, truth: np.ndarray, error: float = 0.0):
        self.config, self.normalization = config, normalization
        meters = (normalization.high - normalization.low) / 2  # for each normalized unit
        self.answer = normalization.forward(torch.from_numpy(truth))[0] + error / meters

    def predict(self, rgb):
        return self.answer


@pytest.fixture(scope="module")
def data(hills, small):
    return prepare(small, hills)


@pytest.mark.parametrize("kind", ["shift", "global"])
def test_model_is_scored_on_every_question_and_compared_with_baselines(data, small, kind):
    normalization = Normalization.fit(kind, data.train.dem)
    table = evaluate(Oracle(small, normalization, data.test.dem, error=10), data.test, data.train).table
    known = ["constant", "color", "tile mean", "tile plane", "coarse 1 km", "coarse 90 m"]
    assert list(table.loc["relief"].index) == list(table.loc["above minimum"].index) == ["unet", *known]
    assert list(table.loc["absolute"].index) == ["unet", "unet, 1 km anchor", *known]
    assert (table.pixels == data.test.dem.size).all() and (table.tiles == len(data.test)).all()
    for question in ("absolute",) if kind == "global" else ("absolute", "above minimum"):
        assert table.loc[(question, "unet"), "MAE"] == pytest.approx(10, abs=0.01)
    assert table.loc[("relief", "unet"), "MAE"] == pytest.approx(0, abs=0.01)
    assert table.loc["relief"].SSIM.isna().all()


def test_baselines_are_the_training_median_and_each_tiles_own_mean(data, small):
    table = evaluate(Oracle(small, data.normalization, data.test.dem), data.test, data.train).table
    test, train = data.test.dem.astype(float), data.train.dem.astype(float)
    constant = np.abs(test - np.median(train)).mean()
    own = np.abs(test - test.mean((1, 2), keepdims=True)).mean()
    assert table.loc[("absolute", "constant"), "MAE"] == pytest.approx(constant, rel=1e-4)
    for question in QUESTIONS:  # the error of predicting no relief is the same in each
        assert table.loc[(question, "tile mean"), "MAE"] == pytest.approx(own, rel=1e-4)
    rise = train - train.min((1, 2), keepdims=True)
    expected = np.abs(test - test.min((1, 2), keepdims=True) - np.median(rise)).mean()
    assert table.loc[("above minimum", "constant"), "MAE"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "question"), [("shift", "above minimum"), ("global", "absolute")])
def test_ssim_is_on_the_scale_of_the_paper(data, small, kind, question):
    model = Oracle(small, Normalization.fit(kind, data.train.dem), data.test.dem)
    truth = (model.answer[:, None] + 1) / 2
    model.answer = model.answer.flip(-1) * 0.9
    ours = evaluate(model, data.test, data.train).table.loc[(question, "unet"), "SSIM"]
    expected, other = (
        float(structural_similarity_index_measure((model.answer[:, None] + 1) / 2, truth, data_range=data_range))
        for data_range in (model.normalization.ssim_range, 0.5)
    )
    assert ours == pytest.approx(expected, abs=1e-4) and abs(expected - other) > 0.01


def test_shift_is_anchored_with_the_true_minimum_and_global_is_not(data, small):
    truth = torch.from_numpy(data.test.dem)
    for kind, knows in (("shift", False), ("global", True)):
        model = Oracle(small, Normalization.fit(kind, data.train.dem), data.test.dem)
        torch.testing.assert_close(elevations(model, None, truth)["absolute"], truth, rtol=0, atol=0.01)
        lifted = elevations(model, None, truth + 100)["absolute"]
        torch.testing.assert_close(lifted, truth if knows else truth + 100, rtol=0, atol=0.01)


def test_trained_model_is_scored_on_its_tiles(trained, data):
    table = evaluate(trained.model(), data.test, data.train).table
    assert np.isfinite(table[["MAE", "RMSE", "R2"]]).all(axis=None)
    assert (table.RMSE >= table.MAE).all()


def test_normalizations_train_for_their_questions():
    assert [trained_question(kind) for kind in ("global", "shift")] == ["absolute", "above minimum"]


def test_coarse_dem_as_anchor_leaves_nearly_the_error_of_relief(data, small):
    wrong = Oracle(small, Normalization.fit("global", data.train.dem), data.test.dem, error=100)
    table = evaluate(wrong, data.test, data.train).table.MAE
    assert table["absolute", "unet"] == pytest.approx(100, abs=0.1) and table["absolute", "unet, 1 km anchor"] < 5


def test_classes_tiles_and_spectra_show_where_the_error_lies(data, small):
    evaluation = evaluate(Oracle(small, data.normalization, data.test.dem, error=10), data.test, data.train)
    share = evaluation.classes.sort_index().loc["relief", "unet"].pixels.groupby("by").sum() / data.test.dem.size
    assert share["elevation"] == share["relief"] == 1 and 0.8 < share["slope"] < 1
    own = np.abs(data.test.dem - data.test.dem.mean((1, 2), keepdims=True)).mean((1, 2))
    np.testing.assert_allclose(evaluation.tiles["relief: tile mean"], own, rtol=1e-4)
    assert list(evaluation.tiles.index) == list(data.test.ids) and (evaluation.tiles.pixels == data.test.size**2).all()
    spectra = evaluation.spectra
    assert spectra["unet: relief"].between(0.99, 1.01).all() and (spectra["unet: error"] < 1e-4).all()
    assert spectra["tile mean: error"].between(0.99, 1.01).all()
    assert set(evaluation.classes.index.get_level_values("by")) == set(CLASSES)


@pytest.mark.parametrize("part", [32**2, 2**17])
def test_what_a_study_keeps_is_part_of_all_that_is_scored(data, small, monkeypatch, part):
    """With baselines that were fitted before; few tiles or many are measured at once."""
    test = replace(data.test, dem=data.test.dem.copy())
    test.dem[0, :9], test.dem[1, 3, 4] = np.nan, np.nan
    model = Oracle(small, data.normalization, data.test.dem, error=10)
    whole = evaluate(model, test, data.train)
    monkeypatch.setattr(scoring, "PART", part)
    kept = evaluate(model, test, fit_baselines(data.train), full=False)
    own = [(question, "unet") for question in QUESTIONS]
    close = partial(pd.testing.assert_frame_equal, rtol=1e-6)
    close(kept.table.loc[own], whole.table.loc[own])
    close(kept.table[["MAE", "pixels"]], whole.table[["MAE", "pixels"]])
    assert kept.table.drop(own).drop(columns=["MAE", "pixels"]).isna().all(axis=None)
    close(kept.tiles, whole.tiles)
    close(kept.classes, whole.classes.query("by == 'slope'"))
    assert list(kept.spectra) == ["unet: relief", "unet: error"]


def test_water_is_left_out_on_request(data, small):
    dem = data.test.dem.copy()
    dem[:, 4:20, 4:20] = dem.min()
    model = Oracle(small, data.normalization, dem)
    meters = (model.normalization.high - model.normalization.low) / 2
    model.answer[:, 5:19, 5:19] += 500 / meters  # wrong on the lake alone
    wet, dry = (evaluate(model, replace(data.test, dem=dem), data.train, mask_water=masked) for masked in (False, True))
    assert wet.table.MAE["above minimum", "unet"] > 50 and dry.table.MAE["above minimum", "unet"] < 0.01
    assert (wet.tiles.pixels - dry.tiles.pixels == 14 * 14).all()


def test_tiles_on_disk_and_more_than_a_batch_score_the_same(data, small, monkeypatch):
    model = Oracle(small, data.normalization, data.test.dem, error=10)
    whole = evaluate(model, data.test, data.train)

    class ByBatch(Oracle):
        def predict(self, rgb):
            at, self.at = self.at, self.at + len(rgb)
            return self.answer[at : self.at]

    by_batch = ByBatch(small, data.normalization, data.test.dem, error=10)
    by_batch.at = 0
    monkeypatch.setattr(scoring, "BATCH", 1)
    pd.testing.assert_frame_equal(evaluate(by_batch, data.test, data.train).table, whole.table, rtol=1e-4)


def test_empty_test_set_is_refused(data, small):
    with pytest.raises(NoTiles, match="nothing to score: the test set is empty"):
        evaluate(Oracle(small, data.normalization, data.test.dem), data.test.take([]), data.train)


def test_test_set_without_elevation_is_refused(data, small):
    empty = replace(data.test, dem=np.full_like(data.test.dem, np.nan))
    with pytest.raises(NoTiles, match="no tile has a valid elevation"):
        evaluate(Oracle(small, data.normalization, data.test.dem), empty, data.train)
