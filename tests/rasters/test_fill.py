"""Margins that hold nothing though no file says so, told from snow and water."""

import warnings

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject
from scipy.ndimage import gaussian_filter

from sat2dem_core.dataset.scenes import open_pair
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.fill import find_margin
from sat2dem_core.rasters.imagery import open_image

SIDE = 400


def scene(dtype="uint8") -> np.ndarray:
    rng = np.random.default_rng(0)
    high = 250 if dtype == "uint8" else 9000
    return rng.integers(1, high, (3, SIDE, SIDE)).astype(dtype)


def blob(seed: int, share: float) -> np.ndarray:
    """A ragged area at the border, as of snow or water."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 12)
    noise[:, : SIDE // 2] += 2 * noise.std()
    return noise > np.quantile(noise, 1 - share)


def rotated(angle: float) -> np.ndarray:
    """The footprint of a scene that gdalwarp laid on a grid, turned by an angle: False where it left fill."""
    center = Affine.translation(SIDE / 2, SIDE / 2)
    turned = center * Affine.rotation(angle) * Affine.scale(0.75) * ~center
    target, utm = np.zeros((SIDE, SIDE), np.uint8), "EPSG:32613"
    place = from_origin(450_000, 4_480_000, 30, 30)
    reproject(
        np.ones((SIDE, SIDE), np.uint8), target, src_transform=place * turned, src_crs=utm, dst_transform=place,
        dst_crs=utm, resampling=Resampling.nearest,
    )
    return target > 0


@pytest.mark.parametrize("angle", [0, 3, 12, 20, 45])
@pytest.mark.parametrize("value, dtype", [(0, "uint8"), (255, "uint8"), (65535, "uint16"), (0, "uint16")])
def test_the_margin_of_a_warped_scene_is_fill(angle, value, dtype):
    values = np.where(rotated(angle), scene(dtype), np.array(value, dtype))
    margin = find_margin(values, np.ones((SIDE, SIDE), bool))
    assert margin.straight and margin.value == value and margin.share == pytest.approx((~rotated(angle)).mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [0, 255])
def test_snow_and_water_at_the_border_are_not_fill(seed, value):
    values = np.where(blob(seed, 0.25), np.uint8(value), scene())
    margin = find_margin(values, np.ones((SIDE, SIDE), bool))
    assert margin is None or not margin.straight


def test_what_is_small_inside_or_declared_is_no_margin():
    small, inside, whole = scene(), scene(), np.ones((SIDE, SIDE), bool)
    small[:, :3, :300] = 0
    inside[:, 100:300, 100:300] = 0
    assert find_margin(small, whole) is None and find_margin(inside, whole) is None
    declared = np.where(rotated(12), scene(), 0).astype(np.uint8)
    assert find_margin(declared, rotated(12)) is None
    assert find_margin(np.zeros((3, SIDE, SIDE), np.uint8), whole).straight is False  # all of it: no edge to judge by


def test_fill_of_an_image_counts_as_nodata_with_one_warning_unless_told(write_raster):
    inside = rotated(12)
    path = write_raster("image.tif", np.where(inside, scene(), 0).astype(np.uint8))
    with pytest.warns(UserWarning, match="of it, at its border, is 0 .* counts as nodata; --nodata none") as said:
        image = open_image(path, 30, 30)
    assert len([warning for warning in said if warning.category is UserWarning]) == 1
    assert np.array_equal(image.read(0, 0, SIDE, SIDE)[1], inside)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert open_image(path, 30, 30, nodata=None).read(0, 0, SIDE, SIDE)[1].all()
    with pytest.warns(UserWarning, match="counts as nodata"):
        coarse = open_image(path, 60, 60)
    assert coarse.read(0, 0, 200, 200)[1].mean() == pytest.approx(inside.mean(), abs=0.02)


def test_ragged_areas_only_warn(write_raster):
    water = blob(1, 0.25)
    path = write_raster("image.tif", np.where(water, 0, scene()).astype(np.uint8))
    with pytest.warns(UserWarning, match="is 0 in every band: unless that is snow, cloud or water, give 0 as"):
        assert open_image(path, 30, 30).read(0, 0, SIDE, SIDE)[1].all()


def test_fill_leaves_pairs_and_elevation_too(write_raster):
    inside = rotated(20)
    image = write_raster("image.tif", np.where(inside, scene(), 255).astype(np.uint8))
    dem = write_raster("dem.tif", np.where(inside, 1500, 0).astype(np.int16))
    with pytest.warns(UserWarning, match="image.tif: .* is 255 in every band with straight edges.*image_nodata=None"):
        pair = open_pair(image, write_raster("level.tif", np.full((SIDE, SIDE), 900, np.int16)))
    assert float(pair.dem.notnull().sum()) == inside.sum()
    with pytest.warns(UserWarning, match="dem.tif: .* is 0 with straight edges"):
        elevation = open_elevation(dem)
    assert np.nanmin(elevation.read(0, 0, SIDE, SIDE)) == 1500
    assert open_elevation(dem, nodata=None).read(0, 0, SIDE, SIDE).min() == 0
