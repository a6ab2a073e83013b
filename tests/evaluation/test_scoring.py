from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import NoTiles, UnknownName, UnreadableRaster, WrongShape
from sat2dem_core.evaluation import scoring
from sat2dem_core.evaluation.baselines import tile_mean
from sat2dem_core.evaluation.measures import CLASSES
from sat2dem_core.evaluation.scoring import QUESTIONS, elevations, evaluate, to_target, trained_question
from sat2dem_core.evaluation.two_rasters import score


def tiles(seed: int, count: int = 3, size: int = 32) -> torch.Tensor:
    """Made-up terrain (N, T, T), meters, tens of pixels wide."""
    rough = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return 1500 + 300 * torch.nn.functional.interpolate(rough, size, mode="bicubic").squeeze(1)


@given(constant=st.floats(-2000, 2000), seed=st.integers(0, 99), question=st.sampled_from(["relief", "above minimum"]))
def test_adding_a_constant_changes_no_answer_of_relief(constant, seed, question):
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
def test_model_is_asked_every_question_beside_baselines(data, small, kind):
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
    for question in QUESTIONS:  # the error that is left when no relief is predicted is the same in each
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


def test_anchor_of_a_coarse_dem_leaves_nearly_the_error_of_relief(data, small):
    wrong = Oracle(small, Normalization.fit("global", data.train.dem), data.test.dem, error=100)
    table = evaluate(wrong, data.test, data.train).table.MAE
    assert table["absolute", "unet"] == pytest.approx(100, abs=0.1) and table["absolute", "unet, 1 km anchor"] < 5


def test_classes_tiles_and_spectra_tell_where_the_error_sits(data, small):
    found = evaluate(Oracle(small, data.normalization, data.test.dem, error=10), data.test, data.train)
    share = found.classes.sort_index().loc["relief", "unet"].pixels.groupby("by").sum() / data.test.dem.size
    assert share["elevation"] == share["relief"] == 1 and 0.8 < share["slope"] < 1
    own = np.abs(data.test.dem - data.test.dem.mean((1, 2), keepdims=True)).mean((1, 2))
    np.testing.assert_allclose(found.tiles["relief: tile mean"], own, rtol=1e-4)
    assert list(found.tiles.index) == list(data.test.ids) and (found.tiles.pixels == data.test.size**2).all()
    assert found.spectra["unet: relief"].between(0.99, 1.01).all() and (found.spectra["unet: error"] < 1e-4).all()
    assert found.spectra["tile mean: error"].between(0.99, 1.01).all()
    assert set(found.classes.index.get_level_values("by")) == set(CLASSES)


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


# --- any two rasters --------------------------------------------------------------------------------------------------


@pytest.fixture
def raster(tmp_path):
    def write(name: str, dem: torch.Tensor, **changes):
        transform = rasterio.Affine(30, 0, 400_000, 0, -30, 4_500_000)
        profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "crs": "EPSG:32630", "transform": transform, "nodata": -9999}
        height, width = dem.shape
        with rasterio.open(tmp_path / name, "w", **profile | {"height": height, "width": width} | changes) as file:
            file.write(np.nan_to_num(dem.numpy(), nan=-9999), 1)
        return tmp_path / name

    return write


def test_two_rasters_are_measured_window_by_window(raster):
    truth = tiles(0, 1, 100)[0]
    truth[:3] = torch.nan
    other = truth + 5
    paths = raster("ours.tif", other), raster("truth.tif", truth)
    for window in (512, 64):
        result = score(*paths, window=window).result()
        assert result["bias"] == pytest.approx(5, abs=1e-3) and result["slope MAE"] == pytest.approx(0, abs=1e-3)
        assert result["pixels"] == 97 * 100


def test_rasters_that_cannot_be_compared_are_refused(raster, tmp_path):
    dem = tiles(0, 1, 40)[0]
    truth = raster("truth.tif", dem)
    shifted = rasterio.Affine(30, 0, 400_030, 0, -30, 4_500_000)
    for other in (raster("a.tif", dem, transform=shifted), raster("b.tif", dem, crs="EPSG:32631"), raster("c.tif", dem[:30])):
        with pytest.raises(WrongShape, match=f"{other.name} and .*truth.tif lie on different grids: resample one onto the other"):
            score(other, truth)
    with pytest.raises(WrongShape, match="prediction is NaN where the truth is known"):
        score(raster("holes.tif", dem.masked_fill(dem > 1500, torch.nan)), truth)
    with pytest.raises(UnreadableRaster, match="missing.tif cannot be read"):
        score(tmp_path / "missing.tif", truth)
    with pytest.raises(NoTiles, match="nothing to score"):
        score(truth, raster("empty.tif", dem * torch.nan)).result()
