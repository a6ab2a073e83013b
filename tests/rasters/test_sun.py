"""The sun that brightness tells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sat2dem_core.rasters.coarse import CellGrid, cell_means, mean_keeping_spline
from sat2dem_core.rasters.sun import band, clipped, estimate_sun, fit_shading, log_brightness, towards
from sat2dem_core.terrain import hillshade

GSD = (30.0, 30.0)


def hills(seed: int = 0, side: int = 160) -> np.ndarray:
    """Relief at all scales, (side, side) meters, its slopes mostly gentle."""
    rng = np.random.default_rng(seed)
    return 1000 + sum(12 * s**1.5 * gaussian_filter(rng.normal(size=(side, side)), s) for s in (1.5, 3, 6, 12))


def lit(dem: np.ndarray, azimuth: float, noise: float = 0.0, gsd: tuple[float, float] = GSD) -> np.ndarray:
    """An image of the terrain under the sun, (3, H, W) uint8, with albedo that varies by that share."""
    albedo = 1 + noise * np.random.default_rng(9).normal(size=dem.shape)
    shade = hillshade(dem, gsd, sun=(azimuth, 45.0)) * albedo
    return np.stack([250 * shade, 200 * shade, 150 * shade]).clip(1, 255).astype(np.uint8)


def apart(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


@settings(max_examples=15)
@given(st.floats(0, 359), st.integers(0, 9))
def test_the_azimuth_is_that_of_the_hillshade(azimuth, seed):
    dem = hills(seed)
    found, r = estimate_sun(lit(dem, azimuth), dem, GSD)
    assert apart(found, azimuth) < 5 and r > 0.95


@pytest.mark.parametrize("k", [3, 9])
def test_a_coarse_dem_tells_the_azimuth_too(k):
    dem = hills()
    spline = mean_keeping_spline(cell_means(dem, k), CellGrid.squares(dem.shape, k))
    found, r = estimate_sun(lit(dem, 140, noise=0.05), spline, GSD, k)
    assert apart(found, 140) < 8 and r > 0.6


def test_strength_is_the_cotangent_of_the_suns_elevation():
    dem = 1000 + (hills() - 1000) / 20  # gentle: to first order
    shade = hillshade(dem, GSD, sun=(120, 30))[None]
    shading = fit_shading(shade, dem, GSD)
    assert shading.strength == pytest.approx(1 / np.tan(np.radians(30)), rel=0.05) and shading.r > 0.98


def test_a_given_azimuth_is_judged():
    dem = hills()
    image = lit(dem, 150)
    assert fit_shading(image, dem, GSD, azimuth=150).r == pytest.approx(fit_shading(image, dem, GSD).r, abs=0.01)
    opposite = fit_shading(image, dem, GSD, azimuth=330)
    assert opposite.azimuth == 330 and opposite.r < -0.9 and opposite.strength < 0
    assert abs(fit_shading(image, dem, GSD, azimuth=240).r) < 0.3


def test_pixels_need_not_be_square_and_turn_with_the_image():
    dem, gsd = hills(), (20.0, 45.0)
    image = lit(dem, 100, gsd=gsd)
    assert apart(estimate_sun(image, dem, gsd)[0], 100) < 5
    turned = np.rot90(image, axes=(1, 2)).copy(), np.rot90(dem).copy()  # counterclockwise
    assert apart(estimate_sun(*turned, gsd[::-1])[0], 10) < 5


def test_clouds_and_voids_do_not_deceive():
    dem = hills()
    image = lit(dem, 150).astype(np.uint16)
    image[:, 20:40, 20:60] = 60000  # a cloud
    image[:, 100:] = 0  # no data
    dem[:30, 100:] = np.nan
    azimuth, r = estimate_sun(image, dem, GSD)
    assert apart(azimuth, 150) < 10 and r > 0.2


def test_without_light_or_relief_nothing_is_seen():
    dem = hills(side=40)
    black = np.zeros((3, 40, 40), np.uint8)
    for image, heights in ((black, dem), (black + 9, dem), (lit(dem, 150), 0 * dem), (lit(dem, 150), dem * np.nan)):
        shading = fit_shading(image, heights, GSD)
        assert shading.r == shading.strength == 0


def test_brightness_of_unlit_pixels_is_unknown():
    image = np.array([[[0.0, 2.0, np.nan]], [[0.0, 4.0, 1.0]]])
    assert np.array_equal(log_brightness(image), [[np.nan, np.log(3), np.nan]], equal_nan=True)


def test_a_band_holds_what_lies_between_two_scales():
    y, x = np.mgrid[:200, :200].astype(float)
    waves = np.stack([np.sin(x * 2 * np.pi / length) for length in (3, 30, 2000)])
    inner = band(waves, 1.0, 12.0)[:, 50:150, 50:150]
    fine, middle, broad = np.abs(inner).max((1, 2))
    assert fine < 0.15 and middle > 0.9 and broad < 0.01
    assert clipped(np.array([-1.0, 0, 1, 50, np.nan]))[3] < 5
    assert towards(90, np.float64(5), np.float64(2)) == pytest.approx(2)  # east
    assert towards(180, np.float64(5), np.float64(2)) == pytest.approx(5)  # south
