"""Measures of elevation error: cases worked by hand, properties, comparison with other libraries, and streams."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score
from torchmetrics.functional.image import structural_similarity_index_measure

from sat2dem_core import terrain
from sat2dem_core.errors import NoTiles, WrongShape
from sat2dem_core.evaluation import measures
from sat2dem_core.evaluation.measures import Measures, Tally, Truth, ssim

GSD = (30.0, 20.0)
OF_OFFSET = {"bias", "MAE", "RMSE", "LE90", "R2", "tile R2", "SSIM"}  # what an offset may change


def hills(count: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Made-up terrain (N, T, T), meters, tens of pixels wide."""
    coarse = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 1000 + 300 * torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[:, 0]


def measured(prediction, truth, scale=(0.0, 4000.0, 1.0), **options) -> dict:
    measure = Measures(GSD, scale)
    measure.update(prediction, truth, **options)
    return measure.result()


# --- a stream of errors -----------------------------------------------------------------------------------------------


@given(values=st.lists(st.floats(-4000, 4000), min_size=1, max_size=60), share=st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values, share):
    expected = np.quantile(values, share)
    assert measures._quantile(np.array(values), share) == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert math.isnan(measures._quantile(np.empty(0), share))


@given(values=st.lists(st.floats(-4000, 4000, width=32), min_size=1, max_size=60), parts=st.integers(1, 7))
def test_quantiles_in_parts_are_those_of_the_whole(values, parts):
    tally, whole = Tally(), np.array(values)
    for part in np.array_split(whole, parts):
        tally.add(torch.from_numpy(part))
    assert tally.median() == pytest.approx(np.median(whole), abs=1e-3)
    assert tally.spread(0.9) == pytest.approx(np.quantile(np.abs(whole), 0.9), abs=1e-3)


def test_a_histogram_replaces_errors_that_are_too_many_to_keep(monkeypatch):
    values = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 40 + 3
    group = (values > 0).long()
    exact, counted = Tally(2, step=0.1), Tally(2, step=0.1)
    exact.add(values, group)
    monkeypatch.setattr(measures, "KEPT", 1000)
    for part, of in zip(values.split(1999), group.split(1999)):
        counted.add(part, of)
    assert counted.kept == [] and exact.counts is None
    for number in (0, 1):
        assert counted.result(number) == pytest.approx(exact.result(number), rel=2e-3)


def test_state_does_not_grow_with_the_number_of_tiles(monkeypatch):
    monkeypatch.setattr(measures, "KEPT", 5000)
    measure = Measures(GSD, (0.0, 4000.0, 1.0))

    def size() -> int:
        tallies = [measure.errors, *measure.by_class.values()]
        return sum(tally.counts.nbytes + sum(part.nbytes for pair in tally.kept for part in pair) for tally in tallies)

    sizes = []
    for seed in range(6):
        measure.update(hills(8, seed=seed), hills(8, seed=seed + 100))
        sizes.append(size())
    assert len(set(sizes)) == 1


def test_tally_worked_by_hand():
    tally = Tally()
    tally.add(torch.tensor([-3.0, 1.0]))
    tally.add(torch.tensor([2.0, 4.0]))
    result = tally.result()
    assert (result["bias"], result["MAE"], result["pixels"]) == (1.0, 2.5, 4)
    assert result["RMSE"] == pytest.approx(math.sqrt(7.5)) and result["STD"] == pytest.approx(np.std([-3, 1, 2, 4]))
    assert result["NMAD"] == pytest.approx(1.4826 * 1.5)
    assert result["LE90"] == pytest.approx(np.quantile([3, 1, 2, 4], 0.9))


def test_groups_worked_by_hand():
    tally, errors = Tally(3), torch.tensor([-3.0, 1, 2, 4, 10])
    tally.add(errors, torch.tensor([0, 2, 0, 2, 2]))
    tally.add(torch.tensor([5.0]), torch.tensor([0]))
    assert tally.sums.tolist() == [[3, 0, 3], [4, 0, 15], [10, 0, 15], [38, 0, 117]]
    assert tally.result(2)["bias"] == 5 and tally.result(2)["NMAD"] == pytest.approx(1.4826 * 3)  # from the median, 4
    assert tally.median() == 2 and tally.median(2) == 4 and tally.spread(0.5) == 3 and tally.spread(0.5, 4.0, 2) == 3


def test_histogram_worked_by_hand(monkeypatch):
    """Bins of 1 m from -10 to 10 m; what lies beyond counts in the outermost."""
    monkeypatch.setattr(measures, "KEPT", 3)
    tally = Tally(2, reach=10.0, step=1.0)
    tally.add(torch.tensor([-12.0, -9.5, 0.5]), torch.tensor([0, 0, 1]))
    assert tally.counts is None  # no more than are kept
    tally.add(torch.tensor([0.25, 3.5, 99.0, -9.1]), torch.tensor([1, 0, 0, 0]))
    expected = np.zeros((2, 20))
    expected[0, [0, 13, 19]], expected[1, 10] = (3, 1, 1), 2
    assert tally.bins == 20 and (tally.counts == expected).all() and not tally.kept
    assert tally.median(0) == pytest.approx(-10 + 2.5 / 3) and tally.median(1) == pytest.approx(0.5)
    assert tally.spread(0.5, 0.0, 1) == pytest.approx(0.5)  # half of the bin from 0 to 1
    assert tally.spread(0.1, 3.5, 0) == pytest.approx(0.25) and tally.spread(1.0, 0.0, 0) == pytest.approx(10)
    tally.add(torch.tensor([0.75, -3.0]), torch.tensor([1, 1]))
    assert tally.counts[1].sum() == 4 and tally.counts[1, 7] == 1


def test_a_mean_leaves_out_what_is_no_number():
    mean = measures.Mean()
    assert mean.result() is None
    mean.add(torch.tensor([1.0, math.nan, 2.0]))
    mean.add(torch.tensor([math.inf, 6.0]))
    assert mean.result() == 3


def test_classes_and_histograms_have_their_documented_sizes():
    assert measures.KEPT == 1_048_576
    classes = measures.CLASSES
    assert classes["slope"] == (0, 12.5, 25, 50, math.inf) and classes["relief"] == (0, 100, 300, 600, 1200, math.inf)
    assert classes["elevation"] == (-math.inf, 0, 500, 1000, 1500, 2000, 2500, 3000, math.inf)
    measure = Measures(GSD)
    tallies = measure.errors, measure.by_class["relief"]
    assert [(tally.groups, tally.reach, tally.step) for tally in tallies] == [(1, 5000, 0.01), (5, 5000, 0.1)]
    assert measure.by_class["slope"].groups == 4 and measure.by_class["elevation"].groups == 8


def test_a_class_begins_at_its_lower_edge():
    truth = torch.tensor([[[499.0, 500.0, 999.0, 1000.0]]]).expand(1, 4, 4).contiguous()
    measure = Measures(GSD)
    measure.update(truth + 1, truth)
    assert measure.by_class["elevation"].sums[0].tolist() == [0, 4, 8, 4, 0, 0, 0, 0]
    assert measure.by_class["relief"].sums[0].tolist() == [0, 0, 16, 0, 0]  # 501 m


def test_empty_class_has_no_measures():
    assert Tally(2).result(1) == dict.fromkeys(("bias", "MAE", "RMSE", "STD", "NMAD", "LE90")) | {"pixels": 0}


def test_nmad_equals_geoutils():
    """tests/peers/xdem_peers.py computed their value."""
    with np.load(Path(__file__).parents[1] / "peers" / "xdem.npz") as file:
        errors, theirs = torch.from_numpy(file["errors"]), float(file["nmad"])
    tally = Tally()
    tally.add(errors)
    assert tally.result()["NMAD"] == pytest.approx(theirs, rel=1e-5)


# --- all measures -----------------------------------------------------------------------------------------------------


def test_paper_metrics_equal_torchmetrics():
    prediction, truth = hills(seed=0), hills(seed=1)
    result = measured(prediction, truth)
    assert result["MAE"] == pytest.approx(float(mean_absolute_error(prediction, truth)), rel=1e-5)
    assert result["RMSE"] == pytest.approx(float(mean_squared_error(prediction, truth, squared=False)), rel=1e-5)
    pooled, *each = (
        float(r2_score(p.double().flatten(), z.double().flatten()))
        for p, z in ((prediction, truth), *zip(prediction, truth))
    )
    assert result["R2"] == pytest.approx(pooled, rel=1e-5)
    assert result["tile R2"] == pytest.approx(np.mean(each), rel=1e-5)
    expected = structural_similarity_index_measure(prediction[:, None] / 4000, truth[:, None] / 4000, data_range=1.0)
    assert result["SSIM"] == pytest.approx(float(expected), abs=1e-5)


def test_ssim_is_taken_on_the_scale_of_the_normalization():
    """Of 500 to 2500 m as 0 to 1, as Global's is."""
    prediction, truth = hills(seed=0), hills(seed=1)
    scaled = ((dem[:, None] - 500) / 2000 for dem in (prediction, truth))
    expected = float(structural_similarity_index_measure(*scaled, data_range=0.7))
    assert measured(prediction, truth, scale=(500.0, 2500.0, 0.7))["SSIM"] == pytest.approx(expected, abs=1e-5)


def test_example_worked_by_hand():
    truth = torch.tensor([[[0.0, 2.0], [4.0, torch.nan]]])
    prediction = torch.tensor([[[1.0, 2.0], [2.0, 99.0]]])
    result = measured(prediction, truth, scale=None)
    assert (result["MAE"], result["RMSE"], result["SSIM"]) == (1.0, pytest.approx(math.sqrt(5 / 3)), None)
    assert result["R2"] == pytest.approx(1 - 5 / 8) and result["bias"] == pytest.approx(-1 / 3)
    # of relief: error (1, 0, -2) about its mean, peak 4 m
    assert result["PSNR"] == pytest.approx(10 * math.log10(16 / np.var([1, 0, -2])), rel=1e-5)


def test_perfect_prediction_has_perfect_scores_with_any_nodata():
    truth = hills(4)
    truth[0, :12, :7] = torch.nan
    truth[1] = torch.nan
    result = measured(torch.where(truth.isnan(), -9999.0, truth), truth)
    zero = ("bias", "MAE", "RMSE", "STD", "NMAD", "LE90")
    assert all(result[name] == 0 for name in zero) and result["R2"] == result["tile R2"] == 1 and result["tiles"] == 3
    assert result["SSIM"] == pytest.approx(1, abs=1e-6)
    whole = measured(truth[2:], truth[2:])
    assert whole["slope MAE"] == whole["aspect MAE"] == whole["roughness MAE"] == 0 and whole["PSNR"] is None


@given(offset=st.floats(-500, 500), seed=st.integers(0, 9))
def test_constant_offset_changes_the_bias_and_no_measure_of_form(offset, seed):
    truth, prediction = hills(seed=seed), hills(seed=seed + 20)
    before, after = measured(prediction, truth), measured(prediction + offset, truth)
    assert after["bias"] - before["bias"] == pytest.approx(offset, abs=1e-3)
    for name in before.keys() - OF_OFFSET:
        assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-3), name


@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99), holes=st.floats(0, 0.9))
def test_in_pieces_is_the_same_as_at_once(parts, seed, holes):
    prediction, truth = hills(sum(parts), seed=seed), hills(sum(parts), seed=seed + 100)
    hidden = torch.rand(sum(parts), generator=torch.Generator().manual_seed(seed)) < holes
    truth[1:][hidden[1:]] = torch.nan
    truth[0, :5] = torch.nan
    whole, pieces = Measures(GSD, (0.0, 4000.0, 1.0)), Measures(GSD, (0.0, 4000.0, 1.0))
    of_whole = whole.update(prediction, truth)
    of_pieces = [pieces.update(ours, theirs) for ours, theirs in zip(prediction.split(parts), truth.split(parts))]
    for pieced, at_once in zip(zip(*of_pieces), of_whole):
        torch.testing.assert_close(torch.cat(pieced), at_once, equal_nan=True)
    assert pieces.result() == pytest.approx(whole.result(), rel=1e-6)
    if whole.power is not None:
        torch.testing.assert_close(whole.power, pieces.power)


@given(rows=st.integers(0, 20), value=st.floats(-1e4, 1e4))
def test_masking_in_the_truth_or_as_water_is_the_same_and_hides_the_prediction(rows, value):
    truth, prediction = hills(), hills(seed=1)
    water = torch.zeros(truth.shape, dtype=torch.bool)
    water[:, :rows, 3:25] = True
    assert measured(prediction, truth, water=water) == measured(prediction, truth.masked_fill(water, torch.nan))
    results = [measured(dem, truth, water=water) for dem in (prediction.masked_fill(water, value), prediction)]
    for name in ("bias", "MAE", "R2", "NMAD", "SSIM"):
        assert results[0][name] == results[1][name]


def test_predictions_that_share_a_truth_are_measured_as_if_alone():
    dem, water = hills(), torch.zeros(3, 32, 32, dtype=torch.bool)
    dem[0, :5], water[1, 3:9] = torch.nan, True
    relief = dem - dem.nanmean((1, 2), keepdim=True)
    truth = Truth(relief, GSD, water, elevation=dem)
    for prediction in (hills(seed=1), hills(seed=2)):
        shared = Measures(GSD)
        errors = shared.compare(prediction, truth)
        assert shared.result() == measured(prediction, relief, None, water=water, elevation=dem)
        assert errors.pixels.tolist() == [27 * 32, 26 * 32, 32 * 32]


@pytest.mark.parametrize("holes", [False, True])
def test_mean_error_is_that_of_all_measures(holes):
    truth, prediction = hills(), hills(seed=1)
    if holes:
        truth[0, :5], truth[1] = math.nan, math.nan
    alone, among = measures.MeanError(), Measures(GSD)
    for part in (slice(0, 1), slice(1, 3)):
        by_tile, expected = (measure.compare(prediction[part], Truth(truth[part], GSD)) for measure in (alone, among))
        assert by_tile.pixels.tolist() == expected.pixels.tolist()
        torch.testing.assert_close(by_tile.mae, expected.mae, equal_nan=True)
    assert alone.result()["pixels"] == among.result()["pixels"] == (27 * 32 + 32 * 32 if holes else 3 * 32 * 32)
    assert alone.result()["MAE"] == pytest.approx(among.result()["MAE"], rel=1e-12)
    with pytest.raises(WrongShape, match="prediction is NaN where the truth is known"):
        alone.compare(torch.full_like(truth, math.nan), Truth(truth, GSD))
    with pytest.raises(WrongShape, match="lie on different grids"):
        alone.compare(prediction[:1], Truth(truth, GSD))
    assert measures.MeanError().result() == {"MAE": None, "pixels": 0}


@given(seed=st.integers(0, 99), holes=st.booleans())
def test_form_is_that_of_the_module_of_terrain(seed, holes):
    truth, prediction = hills(seed=seed), hills(seed=seed + 20)
    prediction[0, 8:14, 8:14] = 700.0  # level terrain has no aspect
    if holes:
        truth[1, 3:6, 20:] = math.nan
    measure = Measures(GSD)
    measure.update(prediction, truth)
    slope, roughness = (f(prediction) - f(truth) for f in (lambda dem: terrain.slope(dem, GSD), terrain.roughness))
    aspect = terrain.angle_between(terrain.aspect(prediction, GSD), terrain.aspect(truth, GSD))
    for sums, values in ((measure.slope, slope), (measure.roughness, roughness), (measure.aspect, aspect)):
        known = values[~values.isnan()].double()
        assert sums.sums[0, 0] == len(known)
        assert sums.sums[1:3, 0] == pytest.approx([float(known.sum()), float(known.abs().sum())], rel=1e-4)


def test_only_the_classes_that_are_asked_for_are_measured():
    measure, all_classes = Measures(GSD, classes=("slope",)), Measures(GSD)
    for one in (measure, all_classes):
        one.update(hills(), hills(seed=1))
    assert list(measure.by_class) == ["slope"] and list(all_classes.by_class) == list(measures.CLASSES)
    assert measure.by_class["slope"].result(2) == all_classes.by_class["slope"].result(2)


def test_classes_hold_every_pixel_that_has_one():
    truth, prediction = hills(), hills(seed=1)
    measure = Measures(GSD)
    measure.update(prediction, truth)
    pixels = {kind: tally.sums[0].sum() for kind, tally in measure.by_class.items()}
    assert pixels == {"slope": 3 * 30 * 30, "elevation": truth.numel(), "relief": truth.numel()}


@pytest.mark.parametrize(("percent", "number"), [(12.0, 0), (13.0, 1), (49.0, 2), (51.0, 3)])
def test_plane_falls_into_its_class_of_slope(percent, number):
    truth = (torch.arange(16.0) * percent / 100 * GSD[1]).expand(1, 16, 16).contiguous()
    measure = Measures(GSD)
    measure.update(truth + 2, truth)
    assert measure.by_class["slope"].result(number)["MAE"] == pytest.approx(2, abs=1e-3)
    assert measure.by_class["slope"].sums[0].tolist() == [14 * 14 * (kind == number) for kind in range(4)]


def test_classes_of_elevation_are_by_elevation_where_relief_is_scored():
    truth = torch.full((1, 8, 8), 1700.0)
    measure = Measures(GSD)
    measure.update(truth * 0 + 1, truth * 0, elevation=truth)
    assert measure.by_class["elevation"].sums[0].nonzero()[0].tolist() == [4]


def test_smooth_prediction_lacks_power_at_short_wavelengths():
    truth = hills(2, 64) + 20 * torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(2))
    smooth = torch.nn.functional.avg_pool2d(truth[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    measure = Measures((30.0, 30.0))
    measure.update(smooth, truth)
    share = (measure.power[1] / measure.power[0])[1:]
    assert share[:3].mean() > 0.8 and share[20:].mean() < 0.1
    assert measure.wavelengths()[[0, -1]].tolist() == [64 * 30, 60] and len(share) == len(measure.wavelengths())


def test_wave_has_its_power_at_its_own_wavelength():
    wave = 50 * torch.sin(2 * torch.pi * torch.arange(64.0) / 8).expand(1, 64, 64)
    measure = Measures((30.0, 30.0))
    measure.update(torch.zeros(1, 64, 64), wave)
    assert measure.wavelengths()[int(measure.power[0, 1:].argmax())] == pytest.approx(240)


@pytest.mark.parametrize(("axis", "wavelength"), [(1, 8 * 20), (0, 8 * 30)])
def test_wave_has_its_power_at_its_wavelength_in_meters(axis, wavelength):
    """On pixels of 30 m down and 20 m along, in all of three pictures: truth, prediction and error."""
    wave = torch.sin(2 * torch.pi * torch.arange(48.0) / 8)
    truth = (wave[None, :] if axis else wave[:, None]).expand(2, 48, 48)
    measure = Measures(GSD)
    measure.update(3 * truth + 100, truth)
    lengths = measure.wavelengths()
    np.testing.assert_allclose(lengths, 48 * 30 / np.arange(1, 25))
    for row in measure.power[:, 1:]:
        assert lengths[int(row.argmax())] == pytest.approx(wavelength, rel=0.07)
    power = measure.power.sum(1)
    torch.testing.assert_close(power[1:] / power[0], torch.tensor([9.0, 4.0], dtype=torch.float64), rtol=1e-5, atol=0)
    # Parseval: the power is that of the windowed tiles without their mean, times their number of pixels
    window = torch.hann_window(48, periodic=False)
    windowed = (truth - truth.mean((1, 2), keepdim=True)) * window * window[:, None]
    assert float(power[0]) == pytest.approx(48 * 48 * float(windowed.square().sum()), rel=1e-4)


def test_spectra_need_square_tiles_without_nodata():
    measure, truth = Measures(GSD), hills(2, 16)
    measure.update(truth[:, :12], truth[:, :12])
    measure.update(torch.zeros(1, 16, 16), truth[:1].clone().index_fill_(1, torch.tensor([3]), math.nan))
    with pytest.raises(NoTiles, match="there is no spectrum: it needs square tiles without nodata"):
        measure.wavelengths()
    assert measure.result()["tiles"] == 3
    measure.update(truth, truth)
    assert measure.power.shape == (3, 9)


def test_without_form_only_what_an_offset_changes_is_measured():
    measure = Measures(GSD, form=False)
    measure.update(hills(), hills(seed=1))
    assert measure.result().keys() == {
        "bias", "MAE", "RMSE", "STD", "NMAD", "LE90", "pixels", "R2", "tile R2", "SSIM", "tiles", "flat tiles"
    }
    assert measure.power is None and measure.slope.sums.sum() == 0


def test_slopes_aspects_and_roughness_of_planes_worked_by_hand():
    """Truth rises 10 % to the east, the prediction 20 % to the south: 3 m and 6 m on pixels of 30 m."""
    rise = torch.arange(6.0)
    truth, prediction = (3 * rise).expand(2, 6, 6), (6 * rise)[:, None].expand(2, 6, 6)
    result = Measures((30.0, 30.0))
    result.update(prediction, truth)
    row = result.result()
    assert row["slope bias"] == pytest.approx(10, abs=1e-3) and row["slope MAE"] == pytest.approx(10, abs=1e-3)
    assert row["aspect MAE"] == pytest.approx(90, abs=1e-3)  # they fall to the west and to the north
    assert row["roughness bias"] == row["roughness MAE"] == 12 - 6
    # the error has the variance of both, (9 + 36) * 35 / 12, and the relief is 15 m
    assert row["PSNR"] == pytest.approx(10 * math.log10(15**2 / (45 * 35 / 12)))
    assert row["tile R2"] == pytest.approx(row["R2"]) and result.slope.sums[0, 0] == 2 * 4 * 4
    other = Measures((30.0, 30.0))
    other.update(prediction, truth, gsd=(60.0, 60.0))
    assert other.result()["slope bias"] == pytest.approx(5, abs=1e-3)


def test_tiles_with_less_than_a_meter_of_relief_are_not_flat():
    truth = torch.tensor([[[0.0, 0.5], [0.25, 0.25]]])
    result = measured(truth + torch.tensor([[0.1, -0.1], [0.1, -0.1]]), truth, scale=None)
    assert result["flat tiles"] == 0 and result["tile R2"] == pytest.approx(1 - 0.04 / 0.125)
    assert result["PSNR"] == pytest.approx(10 * math.log10(0.25 / 0.01), rel=1e-4)
    alone = torch.full((1, 3, 3), math.nan)
    alone[0, 1, 1] = 1
    one = measured(torch.full((1, 3, 3), 3.0), alone, scale=None)
    assert one["tiles"] == one["flat tiles"] == one["pixels"] == 1 and one["MAE"] == 2


def test_flat_and_empty_tiles_are_counted_and_kept_out_of_means():
    flat = torch.full((1, 16, 16), 100.0)
    result = measured(flat + 1, flat)
    assert result["R2"] is result["tile R2"] is result["PSNR"] is None
    assert result["flat tiles"] == 1 and result["bias"] == 1
    empty, both = torch.full_like(flat, torch.nan), Measures(GSD)
    with pytest.raises(NoTiles, match="nothing to score: no tile has a valid elevation"):
        measured(flat, empty)
    by_tile = both.update(torch.cat([flat, hills(1, 16, 3)]), torch.cat([empty, hills(1, 16)]))
    assert by_tile.mae.isnan().tolist() == [True, False] and by_tile.pixels.tolist() == [0, 16 * 16]
    assert both.result()["tiles"] == 1 and math.isfinite(both.result()["tile R2"])


@pytest.mark.parametrize(("prediction", "message"), [
    (torch.zeros(1, 8, 8), r"\(1, 8, 8\) and truth \(1, 16, 16\) lie on different grids: resample"),
    (torch.full((1, 16, 16), torch.nan), "prediction is NaN where the truth is known"),
])
def test_tiles_that_cannot_be_compared_are_refused(prediction, message):
    with pytest.raises(WrongShape, match=message):
        measured(prediction, hills(1, 16))


# --- SSIM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data_range", "shape"), [(1.0, (32, 32)), (0.6439, (75, 11)), (0.6439, (33, 64))])
def test_ssim_of_whole_tiles_equals_torchmetrics_tile_by_tile(data_range, shape):
    prediction, truth = (hills(4, 75, seed)[:, : shape[0], : shape[1]] / 4000 for seed in (2, 3))
    expected = structural_similarity_index_measure(
        prediction[:, None], truth[:, None], data_range=data_range, reduction="none"
    )
    torch.testing.assert_close(ssim(prediction, truth, data_range), expected)


def test_ssim_counts_only_windows_that_are_whole():
    prediction, truth = hills(2, seed=5) / 4000, hills(2, seed=6) / 4000
    holed = truth.clone()
    holed[0, :16] = torch.nan  # the windows of 5 more rows reach into the hole
    holed[1, ::5, ::5] = torch.nan  # no window of this tile is whole
    _, full = structural_similarity_index_measure(
        prediction[:, None], truth[:, None], data_range=1.0, reduction="none", return_full_image=True
    )
    result = ssim(prediction, holed, 1.0)
    assert float(result[0]) == pytest.approx(float(full[0, 0, 21:].mean()), abs=1e-5)
    assert result[1].isnan()
