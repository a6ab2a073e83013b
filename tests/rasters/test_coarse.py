"""Coarse DEMs: means over cells, and surfaces through them."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter, map_coordinates

from sat2dem_core.errors import NoElevation
from sat2dem_core.rasters.coarse import (
    FLOOR, CellGrid, CellSpline, bicubic, bilinear, cell_means, fill_smoothly, fill_voids, local_step,
    mean_keeping_spline, smooth_on_pixels,
)

SURFACES = [bilinear, bicubic, mean_keeping_spline]
SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))


def terrain(shape: tuple[int, int], seed: int, smooth: float = 0.0) -> np.ndarray:
    """Noise with a standard deviation of about 100 m, smoothed over that many pixels."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return 1000 + 100 * (gaussian_filter(noise, smooth) * max(2 * np.sqrt(np.pi) * smooth, 1))


@given(SIZES, st.integers(1, 9), st.integers(0, 99), st.floats(0, 0.7))
def test_means_are_those_of_each_square_by_hand(shape, k, seed, voids):
    dem = terrain(shape, seed)
    dem[np.random.default_rng(seed).random(shape) < voids] = np.nan
    cells = cell_means(dem, k)
    assert cells.shape == (-(-shape[0] // k), -(-shape[1] // k))
    for row, column in np.ndindex(cells.shape):
        part = dem[row * k : (row + 1) * k, column * k : (column + 1) * k]
        known = part[~np.isnan(part)]
        expected = known.mean() if 2 * known.size >= k * k else np.nan
        assert cells[row, column] == pytest.approx(expected, nan_ok=True)


@given(SIZES, st.integers(2, 9), st.integers(0, 99))
def test_the_spline_keeps_means(shape, k, seed):
    shape = tuple(max(side // k, 3) * k for side in shape)
    grid = CellGrid.squares(shape, k)
    rough = terrain(grid.shape, seed)

    def missed(cells: np.ndarray, rounds: int) -> float:
        return np.abs(grid.means(mean_keeping_spline(cells, grid, rounds)) - cells).mean()

    assert missed(rough, 3) < 0.25 * missed(rough, 0) + 1e-9
    assert missed(rough, 60) < 1e-6
    smooth = terrain(grid.shape, seed, 2.0)
    assert missed(smooth, 3) < 0.01 * np.abs(smooth - smooth.mean()).mean() + 1e-9


@given(SIZES, st.integers(1, 7), st.floats(-50, 50), st.floats(-50, 50))
@pytest.mark.parametrize("surface", SURFACES)
def test_planes_are_reproduced_away_from_borders(surface, shape, k, down, along):
    shape = tuple(side + 18 * k for side in shape)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    plane = 500 + down * y + along * x
    inner = (slice(8 * k, shape[0] // k * k - 8 * k), slice(8 * k, shape[1] // k * k - 8 * k))
    fitted = surface(cell_means(plane, k), CellGrid.squares(shape, k))
    assert np.abs(fitted - plane)[inner].max() < 0.02 * k * (abs(down) + abs(along)) + 1e-6


@given(SIZES, st.integers(1, 9), st.integers(0, 99), st.floats(-3000, 3000), st.floats(-5, 5))
@pytest.mark.parametrize("surface", SURFACES)
def test_heights_may_be_shifted_and_scaled(surface, shape, k, seed, shift, scale):
    grid = CellGrid.squares(shape, k)
    cells = terrain(grid.shape, seed)
    cells[0, 0] = cells[0, 0] if cells.size == 1 else np.nan
    expected = scale * surface(cells, grid) + shift
    assert np.allclose(surface(scale * cells + shift, grid), expected, atol=1e-6)


@given(SIZES, st.integers(0, 99))
@pytest.mark.parametrize("surface", SURFACES)
def test_cells_of_one_pixel_give_the_dem_itself(surface, shape, seed):
    dem = terrain(shape, seed)
    dem[2, 3] = np.nan
    result = surface(cell_means(dem, 1), CellGrid.squares(shape, 1))
    assert np.abs(result - dem)[~np.isnan(dem)].max() < 1e-6
    assert np.isfinite(result).all()


def test_it_is_the_spline_of_the_definition():
    """Cubic spline through the centers by scipy, and three rounds of what the means miss."""
    k, shape = 5, (60, 75)
    cells = cell_means(terrain(shape, 0, 3.0), k)
    at = np.meshgrid(*((np.arange(side) + 0.5) / k - 0.5 for side in shape), indexing="ij")
    expected = map_coordinates(cells, at, order=3, mode="nearest")
    assert np.abs(bicubic(cells, CellGrid.squares(shape, k)) - expected).max() < 1e-9
    for _ in range(3):
        means = expected.reshape(12, k, 15, k).mean((1, 3))
        expected += map_coordinates(cells - means, at, order=3, mode="nearest")
    assert np.abs(mean_keeping_spline(cells, CellGrid.squares(shape, k)) - expected).max() < 1e-9


@pytest.mark.parametrize("order, prefilter", [(1, True), (3, True), (3, False)])
def test_rows_and_columns_apart_give_what_all_coordinates_give(order, prefilter):
    fast = CellGrid.from_affine((0.3, 0, -6, 0, 0.2, 1), (90, 100), (15, 20))  # pixels beyond the cells, too
    slow = CellGrid.from_coordinates(*np.broadcast_arrays(fast.rows, fast.columns), fast.shape)
    cells = terrain(fast.shape, 0)
    expected = slow.at_pixels(cells, order, prefilter)
    assert np.abs(fast.at_pixels(cells, order, prefilter) - expected).max() < 1e-9
    if prefilter:
        at = (slow.rows, slow.columns)
        assert np.abs(map_coordinates(cells, at, order=order, mode="nearest") - expected).max() < 1e-3


def test_it_is_closer_to_smooth_terrain_than_interpolation():
    dem = terrain((96, 96), 1, 8.0)
    cells, grid = cell_means(dem, 8), CellGrid.squares(dem.shape, 8)
    errors = [np.abs(surface(cells, grid) - dem)[16:-16, 16:-16].mean() for surface in SURFACES]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.9 * errors[1]


def test_cells_between_pixels_keep_their_means():
    """A coarse DEM whose cells are 7.3 px wide, rotated, and reach beyond the image."""
    to_pixels = Affine.translation(-9, -14) * Affine.rotation(12) * Affine.scale(7.3)
    grid = CellGrid.from_affine(~to_pixels, (80, 100), (16, 18))
    rows, columns = grid.rows, grid.columns
    assert grid.pixels == (80, 100) and grid.area == pytest.approx(7.3**-2)
    assert np.allclose((~to_pixels) * (30.5, 20.5), (columns[20, 30] + 0.5, rows[20, 30] + 0.5))
    cells = terrain(grid.shape, 3, 1.0)
    means = grid.means(mean_keeping_spline(cells, grid, rounds=60))
    covered = ~np.isnan(means)
    assert 80 < covered.sum() < 200 and np.abs(means - cells)[covered].max() < 0.1
    whole = np.bincount(grid.index.ravel(), minlength=cells.size + 1)[:-1].reshape(cells.shape)
    assert np.array_equal(covered, whole * 7.3**-2 >= 0.5)


def test_coordinates_of_another_projection_have_the_area_of_their_pixels():
    to_cells = Affine.translation(1, 2) * Affine.rotation(30) * Affine.scale(0.2)
    affine = CellGrid.from_affine(to_cells, (50, 60), (20, 20))
    warped = CellGrid.from_coordinates(affine.rows, affine.columns, affine.shape)
    assert np.allclose(warped.area, affine.area)
    dem = terrain((50, 60), 0, 2.0)
    assert np.allclose(warped.means(dem), affine.means(dem), equal_nan=True)


def test_pixels_outside_all_cells_belong_to_none():
    grid = CellGrid.from_affine((1 / 3, 0, -1, 0, 1 / 3, 0), (6, 9), (1, 1))  # one cell: rows 0 to 2, columns 3 to 5
    values = np.full((6, 9), 1000.0)
    values[:3, 3:6] = 7
    assert grid.means(values) == pytest.approx(7)
    grid = CellGrid.from_affine((0.5, 0, -1, 0, 0.5, -1), (8, 10), (2, 3))  # cells of 2 px from row 2 and column 2 on
    expected = np.full((8, 10), 6)
    expected[2:6, 2:8] = np.arange(6).reshape(2, 3).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(grid.index, expected)


def test_voids_take_the_nearest_value_and_leave_distant_terrain_alone():
    dem = terrain((90, 90), 5, 4.0)
    grid = CellGrid.squares(dem.shape, 3)
    whole = mean_keeping_spline(cell_means(dem, 3), grid)
    dem[:20, :20] = np.nan
    cells = cell_means(dem, 3)
    assert np.isnan(cells[:6, :6]).all() and np.isnan(cells).sum() == 7 * 7 - 1  # its corner: 4 of 9 px are void
    holed = mean_keeping_spline(cells, grid)
    assert np.isfinite(holed).all() and np.abs(holed - whole)[60:, 60:].max() < 0.01
    assert np.nanmax(np.abs(grid.means(holed) - cells)) < 0.1 * np.nanstd(cells)
    assert np.array_equal(fill_voids(np.array([[5.0, np.nan, np.nan, 9.0]])), [[5, 5, 9, 9]])


def test_without_any_cell_there_is_no_surface():
    with pytest.raises(NoElevation, match="no cell of the coarse DEM is known"):
        mean_keeping_spline(np.full((3, 3), np.nan), CellGrid.squares((9, 9), 3))


@settings(max_examples=30)
@given(arrays(float, st.tuples(*[st.integers(1, 12)] * 2), elements=st.floats(-500, 9000) | st.just(np.nan)))
def test_local_steps_are_positive_everywhere(cells):
    step = local_step(cells)
    grid = CellGrid.squares((5 * cells.shape[0], 5 * cells.shape[1]), 5)
    assert step.shape == cells.shape and step.min() >= FLOOR
    assert smooth_on_pixels(step, grid).min() >= FLOOR * (1 - 1e-9)


def test_local_steps_are_those_of_the_neighborhood():
    y, x = np.mgrid[:30, :60].astype(float)
    tilted = np.where(x < 30, 4 * x + 8 * y, 8 * y + 120)  # 4 m and 8 m from cell to cell; then 0 m and 8 m
    step = local_step(tilted)
    assert step[15, 10] == pytest.approx(6, abs=0.01) and step[15, 49] == pytest.approx(4, abs=0.01)
    changes = np.diff(step[15, 10:50])  # from the one to the other without a jump
    assert changes.max() < 1e-9 and changes.min() > -0.5
    assert np.allclose(local_step(10 * tilted), 10 * step) and np.allclose(local_step(tilted + 900), step)
    tilted[10:20, 10:20] = np.nan
    assert local_step(tilted)[15, 15] == pytest.approx(6, abs=0.3)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(5, 40), st.integers(5, 40), st.integers(0, 99), st.booleans())
def test_a_spline_in_pieces_is_the_mean_keeping_one(cell, height, width, seed, void):
    rng = np.random.default_rng(seed)
    grid = CellGrid.squares((height, width), cell)
    cells = grid.means(rng.normal(0, 100, (height, width)))  # NaN where a cell lies mostly beyond the pixels
    if void and cells.size > 1:
        cells[0, 0] = np.nan
    if np.isnan(cells).all():
        return
    spline = CellSpline(cells, cell, (height, width))
    split = width // 3
    rows = [(top, min(top + 7, height)) for top in range(0, height, 7)]
    pixels = np.concatenate([
        np.concatenate([spline.surface(*row, 0, split), spline.surface(*row, split)], axis=1) for row in rows
    ])
    if height % cell == width % cell == 0:
        assert np.abs(pixels - mean_keeping_spline(cells, grid)).max() < 0.05
    for row, column in np.ndindex(spline.means().shape):
        part = pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        assert spline.means()[row, column] == pytest.approx(part.mean(), abs=1e-2)


def test_voids_between_cells_are_interpolated_and_beyond_reach_they_stay():
    rows, columns = np.mgrid[:30, :40].astype(float)
    cells = 100 + 3 * rows + 2 * columns
    holes = cells.copy()
    holes[5:12, 6:15] = np.nan
    holes[:, 30:] = np.nan
    filled = fill_smoothly(holes, reach=4)
    assert np.abs(filled - cells)[:, :30].max() < 1e-6  # a plane is kept
    assert (filled[:, 30:34] == cells[:, 29:30]).all() and np.isnan(filled[:, 34:]).all()
    assert np.isnan(fill_smoothly(np.full((3, 3), np.nan))).all()
