"""Linear shape from shading: exact where its model holds, the spline where nothing is seen."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sat2dem_core.errors import NoElevation
from sat2dem_core.evaluation.shading import is_visible, relief_from_shading, shape_from_shading
from sat2dem_core.rasters.coarse import CellGrid, cell_means, mean_keeping_spline
from sat2dem_core.rasters.sun import Shading, fit_shading
from sat2dem_core.terrain import hillshade

GSD = (30.0, 30.0)
SIDE, K = 162, 9
GRID = CellGrid.squares((SIDE, SIDE), K)
INNER = (slice(16, -16), slice(16, -16))


def hills(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1000 + sum(12 * s**1.5 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (1.5, 3, 6, 12))


def lit(dem: np.ndarray, azimuth: float = 140, noise: float = 0.0) -> np.ndarray:
    """(1, H, W) brightness, with albedo that varies by that share."""
    albedo = 1 + noise * gaussian_filter(np.random.default_rng(9).normal(size=dem.shape), 1.0)
    return (hillshade(dem, GSD, sun=(azimuth, 45.0)) * albedo)[None] + 1e-3


def unrelated(seed: int) -> np.ndarray:
    """Brightness of variable albedo alone, (1, H, W)."""
    rng = np.random.default_rng(100 + seed)
    return np.exp(sum(0.1 * s * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (1, 2, 4, 8)))[None]


def error(result: np.ndarray, dem: np.ndarray) -> float:
    return float(np.abs(result - dem)[INNER].mean())


@pytest.mark.parametrize("azimuth", [30, 140, 255])
def test_it_beats_the_spline_where_shading_is_seen(azimuth):
    dem = hills()
    cells = cell_means(dem, K)
    spline = mean_keeping_spline(cells, GRID)
    images = (lit(dem, azimuth, noise) for noise in (0, 0.1, 0.3))
    errors = [error(shape_from_shading(image, cells, GRID, GSD), dem) for image in images]
    assert errors == sorted(errors) and errors[0] < 0.65 * error(spline, dem) and errors[2] < 0.9 * error(spline, dem)


def test_means_are_those_of_the_spline():
    dem = hills(1)
    cells = cell_means(dem, K)
    refined = shape_from_shading(lit(dem), cells, GRID, GSD)
    spline = mean_keeping_spline(cells, GRID)
    added = np.abs(refined - spline).mean()
    assert np.abs(GRID.means(refined) - GRID.means(spline)).mean() < 0.1 * added


def test_brightness_may_have_any_unit_and_heights_any_scale():
    dem = hills(2)
    cells, image = cell_means(dem, K), lit(dem)
    expected = shape_from_shading(image, cells, GRID, GSD)
    assert np.allclose(shape_from_shading(60_000 * image, cells, GRID, GSD), expected, atol=1e-6)
    assert np.allclose(shape_from_shading(image, 3 * cells + 50, GRID, GSD), 3 * expected + 50, atol=1e-6)


def test_it_turns_with_the_image():
    dem = hills(3)
    image = lit(dem, 140)
    straight = shape_from_shading(image, cell_means(dem, K), GRID, GSD)
    turned = np.rot90(image, axes=(1, 2)).copy()
    result = shape_from_shading(turned, cell_means(np.rot90(dem).copy(), K), GRID, GSD)
    assert np.abs(np.rot90(result, -1) - straight)[INNER].max() < 0.02 * np.abs(straight).std()


def test_pixels_need_not_be_square():
    """The same brightness on pixels that are twice as long and wide tells heights that are twice as high."""
    image, shading = lit(hills(7)), Shading(100, 1.0, 0.8)
    small, large = (relief_from_shading(image, shading, (side, side), K) for side in (30.0, 60.0))
    assert np.allclose(large, 2 * small)
    south, east = Shading(180, 1.0, 0.9999), Shading(90, 1.0, 0.9999)
    for sun, gsd, factor in ((south, (60.0, 30.0), 2), (east, (60.0, 30.0), 1), (south, (30.0, 60.0), 1)):
        relief = [relief_from_shading(image, sun, pixel, K) for pixel in (GSD, gsd)]
        detail = [part - mean_keeping_spline(GRID.means(part), GRID) for part in relief]
        assert detail[1].std() == pytest.approx(factor * detail[0].std(), rel=0.25)


def test_a_given_sun_is_used_and_a_wrong_one_falls_back():
    dem = hills(4)
    cells, image = cell_means(dem, K), lit(dem, 140)
    spline = mean_keeping_spline(cells, GRID)
    assert error(shape_from_shading(image, cells, GRID, GSD, azimuth=140), dem) < 0.65 * error(spline, dem)
    assert np.array_equal(shape_from_shading(image, cells, GRID, GSD, azimuth=320), spline)


def test_chance_is_not_shading():
    visible = []
    for seed in range(12):
        dem = hills(seed)
        cells = cell_means(dem, 27)  # 36 cells
        grid = CellGrid.squares(dem.shape, 27)
        visible.append(is_visible(fit_shading(unrelated(seed), mean_keeping_spline(cells, grid), GSD, 27), cells.size))
    assert sum(visible) <= 1
    assert np.array_equal(shape_from_shading(unrelated(0), cell_means(hills(), K), GRID, GSD),
                          mean_keeping_spline(cell_means(hills(), K), GRID))


def test_voids_and_nodata_change_what_is_near_alone():
    dem = hills(5)
    image = lit(dem)
    whole = shape_from_shading(image, cell_means(dem, K), GRID, GSD)
    image[:, :40, :40] = 0
    dem[:36, 60:100] = np.nan
    holed = shape_from_shading(image, cell_means(dem, K), GRID, GSD)
    assert np.isfinite(holed).all()
    assert np.abs(holed - whole)[100:].mean() < 0.2
    with pytest.raises(NoElevation):
        shape_from_shading(image, np.full(GRID.shape, np.nan), GRID, GSD)


def test_the_less_is_seen_the_less_is_added():
    image = lit(hills(6))
    amounts = [relief_from_shading(image, Shading(140, 1.0, r), GSD, K).std() for r in (0.9, 0.5, 0.3)]
    assert amounts[0] > 1.2 * amounts[1] > 1.2**2 * amounts[2]
    assert abs(relief_from_shading(image, Shading(140, 1.0, 0.9), GSD, K).mean()) < 0.1 * amounts[0]


def test_a_wave_towards_the_sun_comes_back():
    """Without any disturbance least squares inverts the derivative, with its sign."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    wave = 5 * np.sin(2 * np.pi * x / 18)
    slope = -np.gradient(wave, 30.0, axis=1)  # the sun in the east: what falls to the east is bright
    found = relief_from_shading(np.exp(slope)[None], Shading(90, 1.0, 0.9999), GSD, K)
    found, wave = (part - mean_keeping_spline(GRID.means(part), GRID) for part in (found, wave))  # broad tilts are free
    assert np.corrcoef(found[INNER].ravel(), wave[INNER].ravel())[0, 1] > 0.98
    assert found[INNER].std() == pytest.approx(wave[INNER].std(), rel=0.1)
