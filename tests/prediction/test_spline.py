"""Corrections of cells as one smooth surface."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from sat2dem_core.prediction.spline import CellSpline


@given(st.integers(1, 9), st.integers(5, 40), st.integers(5, 40), st.integers(0, 99))
def test_means_over_cells_are_those_of_the_pixels(cell, height, width, seed):
    shape = -(-height // cell), -(-width // cell)
    spline = CellSpline(np.random.default_rng(seed).normal(0, 100, shape), cell, (height, width))
    pixels = np.concatenate([spline.surface(top, min(top + 7, height)) for top in range(0, height, 7)])
    for row, column in np.ndindex(shape):
        part = pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        assert spline.means()[row, column] == pytest.approx(part.mean(), abs=1e-2)


def test_it_is_scipys_cubic_spline():
    values = np.random.default_rng(0).normal(0, 100, (12, 15))
    rows, columns = ((np.arange(side) + 0.5) / 5 - 0.5 for side in (60, 75))
    expected = map_coordinates(values, np.meshgrid(rows, columns, indexing="ij"), order=3, mode="nearest")
    assert np.abs(CellSpline(values, 5, (60, 75)).surface(0, 60) - expected).max() < 0.1


def test_with_cells_of_one_pixel_it_goes_through_all_values():
    values = np.random.default_rng(0).normal(0, 100, (20, 30))
    assert np.abs(CellSpline(values, 1, (20, 30)).surface(0, 20) - values).max() < 0.01
