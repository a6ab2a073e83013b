"""Normalizations are inverses of each other and follow the paper's equations."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sat2dem_core.dataset.normalize import NORMALIZATIONS, Normalization, scale_image, tile_minimum
from sat2dem_core.errors import FlatElevation, NoElevation, UnknownName


@st.composite
def elevation(draw) -> np.ndarray:
    """(N, H, W) meters with some NaN, never all of one value."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(2, 6)))
    dem = draw(arrays(dtype, shape, elements=st.floats(-500, 9000, width=32)))
    dem[draw(arrays(bool, shape))] = np.nan
    dem[0, 0, :2] = draw(st.sampled_from([(-168.6, 3472.3), (0.0, 0.5), (8848.0, 8849.0)]))
    return dem


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@given(dem=elevation())
def test_inverse_undoes_forward(kind, dem):
    normalization = Normalization.fit(kind, dem)
    normalized, offset = normalization.forward(torch.from_numpy(dem))
    back = normalization.inverse(normalized, offset).numpy()
    assert back.dtype == dem.dtype and offset.shape == (len(dem), 1, 1)
    scale = max(abs(normalization.low), abs(normalization.high), normalization.high - normalization.low)
    np.testing.assert_allclose(back, dem, rtol=0, atol=4 * np.finfo(dem.dtype).eps * scale)  # NaN where NaN was


@given(dem=elevation())
def test_global_spans_minus_one_to_one(dem):
    normalized, offset = Normalization.fit("global", dem).forward(torch.from_numpy(dem).double())
    assert np.nanmin(normalized) == pytest.approx(-1) and np.nanmax(normalized) == pytest.approx(1)
    assert (offset == 0).all()


@given(dem=elevation())
def test_shift_puts_every_tiles_lowest_point_at_minus_one_and_keeps_its_relief(dem):
    normalization = Normalization.fit("shift", dem)
    tiles = torch.from_numpy(dem).double()
    normalized, _ = normalization.forward(tiles)
    lowest = tile_minimum(normalized)
    known = ~torch.from_numpy(dem).isnan().all(-1).all(-1)[:, None, None]
    torch.testing.assert_close(lowest, torch.where(known, -1.0, torch.nan).double(), equal_nan=True)
    height, expected = normalization.height_above_minimum(normalized), tiles - tile_minimum(tiles)
    torch.testing.assert_close(height, expected, equal_nan=True, rtol=0, atol=1e-8)


def test_equations_of_the_paper():
    iberia = {"low": -168.6189727783203, "high": 3472.300537109375, "relief": 0.6439 * 3640.92}
    dem = torch.tensor([[[500.0, 900.0], [700.0, torch.nan]]], dtype=torch.float64)
    n = 2 * (dem - iberia["low"]) / (iberia["high"] - iberia["low"]) - 1
    torch.testing.assert_close(Normalization("global", **iberia).forward(dem)[0], n, equal_nan=True)
    shifted, offset = Normalization("shift", **iberia).forward(dem)
    torch.testing.assert_close(shifted, n - (n[0, 0, 0] + 1), equal_nan=True)
    assert float(offset) == pytest.approx(float(n[0, 0, 0]) + 1)
    assert Normalization("global", **iberia).ssim_range == 1
    assert Normalization("shift", **iberia).ssim_range == pytest.approx(0.6439, abs=1e-4)


def test_example_worked_by_hand():
    """A range of -100 m to 300 m: 200 m a unit, and -1 at -100 m."""
    dem = torch.tensor([[[-100.0, 100.0], [200.0, 300.0]], [[0.0, 100.0], [torch.nan, 150.0]]])
    levels = torch.tensor([[[-1.0, 0.0], [0.5, 1.0]], [[-0.5, 0.0], [torch.nan, 0.25]]])
    normalized, offset = Normalization("global", -100.0, 300.0, 400.0).forward(dem)
    torch.testing.assert_close(normalized, levels, equal_nan=True)
    assert (offset == 0).all() and offset.shape == (2, 1, 1)
    shift = Normalization("shift", -100.0, 300.0, 400.0)
    normalized, offset = shift.forward(dem)
    assert offset.flatten().tolist() == [0.0, 0.5]  # the second tile's lowest point is at -0.5
    torch.testing.assert_close(normalized, levels - offset, equal_nan=True)
    torch.testing.assert_close(shift.inverse(normalized, offset), dem, equal_nan=True)
    without = torch.tensor([[-100.0, 0.0], [torch.nan, 50.0]])  # the lowest point comes to lie at -100 m
    torch.testing.assert_close(shift.inverse(normalized)[1], without, equal_nan=True)
    torch.testing.assert_close(shift.height_above_minimum(normalized)[1], without + 100, equal_nan=True)


def test_a_normalization_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Normalization("global", 0.0, 1.0, 1.0).low = 2.0


def test_fit_takes_range_and_largest_relief_of_all_tiles():
    dem = np.array([[[0.0, 100.0]], [[1000.0, 1300.0]], [[np.nan, np.nan]]])
    assert Normalization.fit("shift", dem) == Normalization("shift", 0, 1300, 300)


def test_minimum_of_a_tile_ignores_nodata_and_is_nan_without_any():
    lowest = tile_minimum(torch.tensor([[[3.0, torch.nan], [2.0, 7.0]], [[torch.nan] * 2] * 2]))
    assert lowest.shape == (2, 1, 1)
    assert float(lowest[0]) == 2 and lowest[1].isnan()


def test_all_nodata_and_infinite_elevation_are_refused():
    with pytest.raises(NoElevation, match="every elevation is nodata; give a DEM"):
        Normalization.fit("shift", np.full((2, 4, 4), np.nan))
    with pytest.raises(NoElevation, match="an elevation is infinite; set unknown elevations to NaN"):
        Normalization.fit("shift", np.array([[[1.0, np.inf]]]))


def test_constant_elevation_is_refused_with_its_value():
    with pytest.raises(FlatElevation, match="every elevation is 1500 m; give a DEM with some relief"):
        Normalization.fit("global", np.full((2, 4, 4), 1500.0))


def test_unknown_normalization_lists_the_valid_ones():
    for build in (lambda: Normalization.fit("local", np.eye(4)[None]), lambda: Normalization("local", 0, 1, 1)):
        with pytest.raises(UnknownName, match="unknown normalization 'local': choose one of global, shift"):
            build()


def test_image_is_scaled_from_minus_one_to_one():
    scaled = scale_image(torch.tensor([0, 255, 51], dtype=torch.uint8))
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, torch.tensor([-1.0, 1.0, -0.6]))
