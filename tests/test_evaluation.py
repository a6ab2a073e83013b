import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score
from torchmetrics.functional.image import structural_similarity_index_measure

from sat2dem_core.errors import NoTiles, UnknownName, WrongShape
from sat2dem_core.evaluation import QUESTIONS, Scores, elevations, evaluate, put_question, ssim, tile_mean
from sat2dem_core.normalize import Normalization
from sat2dem_core.training import prepare


def tiles(seed: int, count: int = 3, size: int = 32) -> torch.Tensor:
    """Made-up terrain (N, T, T), meters, tens of pixels wide."""
    rough = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return 1500 + 300 * torch.nn.functional.interpolate(rough, size, mode="bicubic").squeeze(1)


def scores(prediction, truth, *scale) -> dict[str, float]:
    result = Scores(*scale)
    result.update(prediction, truth)
    return result.result()


def test_scores_equal_torchmetrics():
    prediction, truth = tiles(0), tiles(1)
    result = scores(prediction, truth, 0.0, 4000.0)
    assert result["MAE"] == pytest.approx(float(mean_absolute_error(prediction, truth)), rel=1e-5)
    assert result["RMSE"] == pytest.approx(float(mean_squared_error(prediction, truth, squared=False)), rel=1e-5)
    r2 = r2_score(prediction.double().flatten(), truth.double().flatten())
    assert result["R2"] == pytest.approx(float(r2), rel=1e-5)
    expected = structural_similarity_index_measure(prediction[:, None] / 4000, truth[:, None] / 4000, data_range=1.0)
    assert result["SSIM"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 0.6439])
def test_ssim_of_whole_tiles_equals_torchmetrics_tile_by_tile(data_range):
    prediction, truth = tiles(2, 4) / 4000, tiles(3, 4) / 4000
    expected = structural_similarity_index_measure(
        prediction[:, None], truth[:, None], data_range=data_range, reduction="none"
    )
    torch.testing.assert_close(ssim(prediction, truth, data_range), expected)


def test_perfect_prediction_scores_perfectly_whatever_the_nodata():
    truth = tiles(4)
    truth[0, :12, :7] = torch.nan
    truth[1] = torch.nan
    result = scores(torch.where(truth.isnan(), -9999.0, truth), truth, 0.0, 4000.0)
    assert result["MAE"] == result["RMSE"] == 0 and result["R2"] == 1
    assert result["SSIM"] == pytest.approx(1, abs=1e-6)


def test_scores_of_an_example_worked_by_hand():
    truth = torch.tensor([[[0.0, 2.0], [4.0, torch.nan]]])
    prediction = torch.tensor([[[1.0, 2.0], [2.0, 99.0]]])
    assert scores(prediction, truth) == {"MAE": 1.0, "RMSE": math.sqrt(5 / 3), "SSIM": None, "R2": 1 - 5 / 8}


@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99), holes=st.floats(0, 0.9))
def test_scores_in_pieces_equal_scores_at_once(parts, seed, holes):
    prediction, truth = tiles(seed, sum(parts)), tiles(seed + 100, sum(parts))
    hidden = torch.rand(sum(parts), generator=torch.Generator().manual_seed(seed)) < holes
    truth[1:][hidden[1:]] = torch.nan
    truth[0, :5] = torch.nan
    whole, pieces = Scores(0.0, 4000.0), Scores(0.0, 4000.0)
    whole.update(prediction, truth)
    for ours, theirs in zip(prediction.split(parts), truth.split(parts)):
        pieces.update(ours, theirs)
    assert pieces.result() == pytest.approx(whole.result(), rel=1e-6)


@given(seed=st.integers(0, 99), rows=st.integers(0, 20), value=st.floats(-1e4, 1e4))
def test_nodata_counts_nowhere(seed, rows, value):
    prediction, truth = tiles(seed), tiles(seed + 1)
    truth[:, :rows] = torch.nan
    other = prediction.clone()
    other[:, :rows] = value
    assert scores(other, truth, 0.0, 4000.0) == scores(prediction, truth, 0.0, 4000.0)
    errors = (prediction - truth)[:, rows:].double()
    assert scores(prediction, truth)["MAE"] == pytest.approx(float(errors.abs().mean()))


def test_ssim_counts_only_windows_that_are_whole():
    prediction, truth = tiles(5, 2), tiles(6, 2)
    prediction, truth = prediction / 4000, truth / 4000
    holed = truth.clone()
    holed[0, :16] = torch.nan  # 5 more rows see the hole through their windows
    holed[1, ::5, ::5] = torch.nan  # and nothing here is whole
    _, full = structural_similarity_index_measure(
        prediction[:, None], truth[:, None], data_range=1.0, reduction="none", return_full_image=True
    )
    result = ssim(prediction, holed, 1.0)
    assert float(result[0]) == pytest.approx(float(full[0, 0, 21:].mean()), abs=1e-5)
    assert result[1].isnan()


@given(constant=st.floats(-2000, 2000), seed=st.integers(0, 99), question=st.sampled_from(["relief", "above minimum"]))
def test_adding_a_constant_changes_no_score_of_relief(constant, seed, question):
    prediction, truth = tiles(seed).double(), tiles(seed + 1).double()
    truth[0, :4] = torch.nan
    plain = scores(put_question(prediction, question), put_question(truth, question))
    moved = scores(put_question(prediction + constant, question), put_question(truth, question))
    for name in ("MAE", "RMSE", "R2"):
        assert moved[name] == pytest.approx(plain[name], rel=1e-6)


def test_questions_take_mean_or_minimum_of_each_tile():
    nan = torch.nan
    dem = torch.tensor([[[1.0, 3.0, nan]], [[10.0, 40.0, 10.0]]])
    expected = {
        "absolute": dem,
        "above minimum": torch.tensor([[[0.0, 2, nan]], [[0, 30, 0]]]),
        "relief": torch.tensor([[[-1.0, 1, nan]], [[-10, 20, -10]]]),
    }
    for question in QUESTIONS:
        torch.testing.assert_close(put_question(dem, question), expected[question], equal_nan=True)
    assert tile_mean(dem).flatten().tolist() == [2, 20]


def test_unknown_question_lists_the_valid_ones():
    with pytest.raises(UnknownName, match="unknown question 'slope': choose one of absolute, above minimum, relief"):
        put_question(tiles(0), "slope")


def test_r2_is_not_defined_on_flat_ground():
    assert scores(tiles(0), torch.full((3, 32, 32), 700.0))["R2"] is None


def test_nothing_to_score_is_refused():
    with pytest.raises(NoTiles, match="nothing to score: no tile has a valid elevation"):
        scores(tiles(0), torch.full((3, 32, 32), torch.nan))


def test_grids_of_different_size_are_refused():
    with pytest.raises(WrongShape, match=r"\(3, 32, 32\) and truth \(3, 16, 16\) lie on different grids: resample"):
        scores(tiles(0), tiles(0, size=16))


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
def test_model_is_asked_every_question_beside_two_baselines(data, small, kind):
    normalization = Normalization.fit(kind, data.train.dem)
    table = evaluate(Oracle(small, normalization, data.test.dem, error=10), data.test, data.train)
    assert list(table.index) == [(q, p) for q in QUESTIONS for p in ("unet", "constant", "tile mean")]
    assert list(table.columns) == ["MAE", "RMSE", "SSIM", "R2"]
    for question in ("absolute",) if kind == "global" else ("absolute", "above minimum"):
        assert table.loc[(question, "unet"), "MAE"] == pytest.approx(10, abs=0.01)
    assert table.loc[("relief", "unet"), "MAE"] == pytest.approx(0, abs=0.01)
    assert table.loc["relief"].SSIM.isna().all()


def test_baselines_are_the_training_median_and_each_tiles_own_mean(data, small):
    table = evaluate(Oracle(small, data.normalization, data.test.dem), data.test, data.train)
    test, train = data.test.dem.astype(float), data.train.dem.astype(float)
    constant = np.abs(test - np.quantile(train, 0.5, method="lower")).mean()
    own = np.abs(test - test.mean((1, 2), keepdims=True)).mean()
    assert table.loc[("absolute", "constant"), "MAE"] == pytest.approx(constant, rel=1e-4)
    for question in QUESTIONS:  # the error that is left when no relief is predicted is the same in each
        assert table.loc[(question, "tile mean"), "MAE"] == pytest.approx(own, rel=1e-4)
    rise = train - train.min((1, 2), keepdims=True)
    expected = np.abs(test - test.min((1, 2), keepdims=True) - np.quantile(rise, 0.5, method="lower")).mean()
    assert table.loc[("above minimum", "constant"), "MAE"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "question"), [("shift", "above minimum"), ("global", "absolute")])
def test_ssim_is_on_the_scale_of_the_paper(data, small, kind, question):
    model = Oracle(small, Normalization.fit(kind, data.train.dem), data.test.dem)
    truth = (model.answer[:, None] + 1) / 2
    model.answer = model.answer.flip(-1) * 0.9
    ours = evaluate(model, data.test, data.train).loc[(question, "unet"), "SSIM"]
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
    table = evaluate(trained.model(), data.test, data.train)
    assert np.isfinite(table[["MAE", "RMSE", "R2"]]).all(axis=None)
    assert (table.RMSE >= table.MAE).all()
