"""Which tiles of a store are flagged, and by how much an image is shifted against its elevation."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import Cell
from sat2dem_core.dataset.quality import Limits, elevation_histogram, inspect, misregistration
from sat2dem_core.pictures.plots import quality_figure
from sat2dem_core.terrain import hillshade

SUN = 150.0, 40.0


def terrain(seed: int = 0, size: int = 256) -> np.ndarray:
    """Rugged elevation (size, size) in meters."""
    noise = np.random.default_rng(seed).normal(size=(size, size))
    return (1500 + 3000 * gaussian_filter(noise, 4)).astype(np.float32)


def picture(dem: np.ndarray, sun=SUN) -> np.ndarray:
    """An image (3, H, W) of gray terrain under the sun, with a little noise."""
    light = 160 * hillshade(dem, (30, 30), sun=sun) + np.random.default_rng(1).normal(0, 4, dem.shape)
    return np.broadcast_to(light, (3, *dem.shape)).clip(0, 255).astype(np.uint8)


@given(down=st.floats(-5, 5), east=st.floats(-5, 5))
def test_misregistration_finds_the_shift(down, east):
    dem = terrain(size=128)
    rgb = shift(picture(dem).astype(float), (0, down, east), order=1, mode="nearest").astype(np.uint8)
    *shifts, correlation = misregistration(rgb, dem, SUN)
    assert shifts == pytest.approx((down, east), abs=0.25) and correlation > 0.5


def test_misregistration_ignores_nodata_and_is_nan_without_shading():
    dem = terrain()
    dem[40:90, 100:180] = np.nan
    shifted = np.roll(picture(terrain()), (3, -2), (1, 2))
    assert misregistration(shifted, dem, SUN)[:2] == pytest.approx((3, -2), abs=0.2)
    flat, gray = np.zeros((256, 256), np.float32), np.full((3, 256, 256), 90, np.uint8)
    assert np.isnan(misregistration(picture(terrain()), flat)).all()
    assert np.isnan(misregistration(gray, terrain())).all()
    assert np.isnan(misregistration(gray, np.full((256, 256), np.nan, np.float32))).all()


@pytest.mark.parametrize("azimuth", [45, 150, 300])
def test_the_sun_matters(azimuth):
    dem = terrain()
    rgb = picture(dem, (azimuth, 40.0))
    right, opposite = (misregistration(rgb, dem, (sun, 40.0))[2] for sun in (azimuth, azimuth + 180))
    assert right > 0.9 > 0.5 > opposite


def test_a_real_scene_fits_its_elevation_to_half_a_pixel(shared, monkeypatch):
    from sat2dem_core.dataset.scenes import open_scene

    monkeypatch.setenv("SAT2DEM_DATA", str(shared / "data"))
    scene = open_scene("zion").isel(y=slice(200, 456), x=slice(200, 456))
    down, east, shading = misregistration(scene.rgb.values, scene.dem.values)
    assert np.hypot(down, east) < 0.7 and shading > 0.3


def make(number: int) -> xr.Dataset:
    """Tiles of a store; those of numbers 1 to 7 are to be flagged."""
    dem = terrain(number)
    rgb = picture(dem)
    attrs = {"cloud_share": 0.2, "sea_share": 0.0, "sun_azimuth": SUN[0], "sun_elevation": SUN[1]}
    if number == 1:
        rgb = np.roll(rgb, 4, 1)
    if number == 2:
        attrs["cloud_share"] = 0.9
    if number == 3:
        dem[:100] = np.nan
    if number == 4:
        dem[128, 128] = 7000
    if number == 5:
        rgb = np.full_like(rgb, 250)
    if number == 6:
        attrs["sea_share"] = 0.8
    if number == 7:
        dem[:] = np.nan
    cell = Cell(32630, 60 + number, 570)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
    scene.attrs = attrs | {
        "crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": float(np.isnan(dem).mean()),
    }
    return scene


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    jobs = {Cell(32630, 60 + number, 570).id: number for number in range(12)}
    return assemble(tmp_path_factory.mktemp("quality") / "a.zarr", jobs, make, {}, {}, progress=False)


def test_unusual_tiles_are_flagged_and_none_is_dropped(store):
    table = inspect(store, progress=False)
    flags = dict(enumerate(table.flagged))
    assert len(table) == 12
    expected = {1: "shifted", 2: "cloudy", 3: "gaps", 4: "step", 5: "bright or dark", 6: "sea", 7: "gaps"}
    assert {number: flag for number, flag in flags.items() if flag} == expected
    assert (table.down.iloc[1], table.east.iloc[1]) == pytest.approx((4, 0), abs=0.2)
    assert table.relief.iloc[0] == pytest.approx(float(np.ptp(terrain(0)))) and np.isnan(table.relief.iloc[7])


def test_a_user_can_set_the_limits(store):
    table = inspect(store, Limits(cloudy=0.1, gaps=2, sea=2, shifted=99, odd=1e9), progress=False)
    assert (table.flagged == "cloudy").all()


def test_longitude_and_latitude_are_those_of_the_center(store):
    table = inspect(store, progress=False)
    for name, lon, lat in zip(table.index, table.lon, table.lat):
        center = Cell.parse(name).footprint.centroid
        assert (lon, lat) == pytest.approx((center.x, center.y), abs=1e-3)


def test_the_histogram_counts_every_pixel_once(store):
    counts, edges = elevation_histogram(store)
    valid = sum(int((~np.isnan(make(number).dem)).sum()) for number in range(12))
    assert counts.sum() == valid and edges[-1] == 7000


def test_the_figure_shows_all_tiles(store):
    figure = quality_figure(inspect(store, progress=False), elevation_histogram(store))
    overview = figure.axes[0]
    assert overview.get_title().startswith("12 tiles, 7 flagged") and len(overview.collections[0].get_paths()) == 12
