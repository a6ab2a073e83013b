"""Channels of valleys worked out by hand, and how those of a prediction are compared with them."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, uniform_filter

from sat2dem_core.errors import InvalidConfig, WrongShape
from sat2dem_core.evaluation.drainage import Drainage, channels

GSD = 30.0, 20.0
AREA = 600 * 324.0  # m²: 324 pixels of GSD


def valley(bed: int = 32, size: int = 64) -> np.ndarray:
    """A V-shaped valley whose bed runs down the rows in one column; (size, size) meters."""
    rows, columns = np.mgrid[:size, :size]
    return (16 * abs(columns - bed) + size - rows).astype(np.float32)


def hills(seed: int, size: int = 64) -> np.ndarray:
    """Rugged terrain in steps of 1/8 m, which float32 holds exactly; (size, size) meters."""
    relief = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 4)
    return np.round(8 * 300 * relief / relief.std()).astype(np.float32) / 8


def score(prediction, truth, **settings) -> tuple[float | None, float | None]:
    """(found, correct) of one tile."""
    measure = Drainage(GSD, **({"area": AREA} | settings))
    measure.update(prediction[None], truth[None])
    return tuple(measure.result().values())


def test_the_bed_of_a_valley_is_its_channel_once_enough_area_drains_into_it():
    # The next row lies lower, so slopes drain diagonally: from (row, away) to the bed at row + away. The outermost
    # pixels drain out of the tile. So row - away pixels of each column have reached the bed down to a row: row².
    expected = np.zeros((64, 64), bool)
    expected[18:, 32] = True
    np.testing.assert_array_equal(channels(valley(), GSD, AREA), expected)
    assert (channels(valley(), GSD) == channels(torch.tensor(valley()), GSD, 512 * 600.0)).all()


@pytest.mark.parametrize("bed, shares", [(32, (1, 1)), (33, (1, 1)), (34, (1, 1)), (35, (0, 0)), (26, (0, 0))])
def test_a_channel_counts_within_the_tolerance(bed, shares):
    assert score(valley(bed), valley()) == shares


def test_the_tolerance_is_the_users():
    assert score(valley(33), valley(), tolerance=0) == (0, 0) and score(valley(37), valley(), tolerance=5) == (1, 1)
    assert score(valley(62), valley(1), tolerance=5) == (0, 0)  # opposite sides of a tile are not near


def test_an_extra_valley_is_not_correct_and_a_missing_one_is_not_found():
    one, two = valley(16), np.minimum(valley(16), valley(48))
    found, correct = score(two, one)
    assert found > 0.8 > 0.6 > correct and score(one, two) == (correct, found)


@pytest.mark.parametrize("tilt", [0, 1])
def test_level_and_evenly_tilted_terrain_has_no_channel(tilt):
    plane = np.float32(tilt) * np.arange(64, dtype=np.float32)[:, None].repeat(64, 1)  # at most 64 pixels in a row
    assert not channels(plane, GSD, AREA).any() and score(plane, valley()) == (0, None)
    assert score(plane, plane) == (None, None) and score(valley(), valley(), area=1e12) == (None, None)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), offset=st.integers(-400, 4000), scale=st.sampled_from([0.25, 1, 2]))
def test_offset_and_scale_change_nothing(seed, offset, scale):
    assert score(scale * hills(seed) + np.float32(offset), hills(seed), tolerance=0) == (1, 1)


def test_smoother_and_noisier_terrain_scores_lower():
    truth = hills(1, 128)
    noise = np.random.default_rng(0).normal(size=truth.shape).astype(np.float32)
    smoother = [uniform_filter(truth, side) for side in (1, 9, 33)]
    for worse in (smoother, [truth + sigma * noise for sigma in (0, 100, 1000)]):
        for shares in zip(*(score(prediction, truth) for prediction in worse)):
            assert shares[0] == 1 and shares[0] > shares[1] > shares[2]


def test_nodata_counts_for_neither_side():
    truth, prediction = hills(3), hills(3)
    truth[:, 40:], prediction[:, 40:] = np.nan, 1e4 * hills(4)[:, 40:]
    assert score(prediction, truth) == (1, 1) and not channels(truth, GSD, AREA)[:, 40:].any()
    prediction[:, 40:] = np.nan
    assert score(prediction, truth) == (1, 1)
    assert score(hills(4), np.full((64, 64), np.nan)) == (None, None)


def test_tiles_in_parts_give_the_result_of_all_at_once():
    truth = np.stack([hills(seed) for seed in range(5)])
    prediction = np.stack([uniform_filter(dem, 5) for dem in truth])
    whole, parts = Drainage(GSD, AREA), Drainage(GSD, AREA)
    whole.update(torch.tensor(prediction), torch.tensor(truth))
    for part in (slice(0, 1), slice(1, 5)):
        parts.update(prediction[part], truth[part])
    assert parts.result() == whole.result() and vars(parts) == vars(whole)


def test_different_grids_holes_and_invalid_settings_are_refused():
    holed = valley()
    holed[3, 3] = np.nan
    with pytest.raises(WrongShape, match="predict these pixels"):
        score(holed, valley())
    for prediction, truth in ((valley(size=32), valley()), (valley()[0], valley()[0])):
        with pytest.raises(WrongShape, match="different grids: resample"):
            score(prediction, truth)
    for wrong in ({"area": 0.0}, {"area": float("nan")}, {"tolerance": -1}):
        with pytest.raises(InvalidConfig, match="above 0"):
            Drainage(GSD, **wrong)


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyflwdir", None)
    with pytest.raises(InvalidConfig, match=r"^drainage needs pyflwdir: pip install 'sat2dem-core\[drainage\]'$"):
        Drainage(GSD)
