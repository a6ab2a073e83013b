"""Scenes: images and elevation of any CRS and size come onto one grid, or a sentence says why not."""

import numpy as np
import pytest
import rasterio
from file_server import file_server
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform_bounds
from rasterio.windows import Window

from sat2dem_core.dataset.originals import fetch_scene
from sat2dem_core.dataset.registry import find_site
from sat2dem_core.dataset.scenes import open_pair, open_scene
from sat2dem_core.errors import MissingCRS, NoElevation, NoOverlap, UnknownName, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters import download
from sat2dem_core.rasters.grids import ground_sampling_distance

WEST, NORTH = 450_000.0, 4_480_000.0


@pytest.fixture
def image(write_raster, picture):
    return write_raster("image.tif", picture)


@pytest.fixture
def dem(write_raster, slope):
    return write_raster("dem.tif", slope)


def test_sample_is_the_overlap_on_one_grid_without_holes():
    scene = open_scene("rocky-mountain")
    assert scene.sizes == {"band": 3, "y": 263, "x": 279}
    assert scene.rgb.dtype == np.uint8 and scene.dem.dtype == np.float32
    assert not scene.dem.isnull().any()
    assert 2281 <= scene.dem.min() < 2300 and 4240 < scene.dem.max() <= 4261
    assert scene.rio.crs == scene.dem.rio.crs == scene.rgb.rio.crs == "EPSG:4326"
    assert ground_sampling_distance(scene) == pytest.approx((167, 127), abs=1)


def test_sample_opens_without_a_name_and_names_itself():
    assert open_scene().attrs["name"] == "rocky-mountain"


def test_unknown_scene_lists_the_valid_ones():
    with pytest.raises(UnknownName, match="'atlantis': choose one of .*rocky-mountain"):
        open_scene("atlantis")


def test_image_and_dem_of_one_grid_are_taken_as_they_are(image, dem, picture, slope):
    scene = open_pair(str(image), str(dem))
    np.testing.assert_array_equal(scene.rgb, picture)
    np.testing.assert_allclose(scene.dem, slope, atol=1e-3)
    assert scene.rgb.dtype == np.uint8 and scene.dem.dtype == np.float32
    assert list(scene.band.values) == ["red", "green", "blue"]
    assert scene.attrs["stretch"] == "uint8 as read" and scene.dem.attrs["units"] == "m"


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32612"])
def test_dem_of_another_crs_is_resampled_to_the_same_places(write_raster, image, slope, crs):
    bounds = (WEST - 300, NORTH - 70 * 30, WEST + 90 * 30, NORTH + 300)
    rows, columns = np.mgrid[-10:70, -10:90]
    wide = (1000 + 2 * rows + 2 * columns).astype(np.float32)
    utm = from_origin(WEST - 300, NORTH + 300, 30, 30)
    transform, width, height = calculate_default_transform("EPSG:32613", crs, 100, 80, *bounds)
    reprojected = np.full((height, width), -9999, np.float32)
    reproject(wide, reprojected, src_transform=utm, src_crs="EPSG:32613", dst_transform=transform, dst_crs=crs,
              dst_nodata=-9999, resampling=Resampling.cubic)
    scene = open_pair(image, write_raster("dem.tif", reprojected, crs, transform, nodata=-9999))
    assert scene.rio.crs == "EPSG:32613"
    assert scene.dem.shape == (64, 80)
    assert abs(scene.dem - slope).max() < 1.0  # a pixel to the side is worth 2 m


def test_coarser_dem_is_interpolated_smoothly(write_raster, image):
    rows, columns = np.mgrid[:12, :12]
    coarse = (1000 + 20 * rows + 20 * columns).astype(np.float32)  # 300 m pixels
    scene = open_pair(image, write_raster("dem.tif", coarse, transform=from_origin(WEST - 300, NORTH + 300, 300, 300)))
    assert scene.attrs["resampling"] == "cubic"
    inner = scene.dem.values[8:-8, 8:-8]
    np.testing.assert_allclose(np.diff(inner, axis=1), 2, atol=0.1)  # no steps of 20 m


def test_finer_dem_is_averaged(write_raster, image):
    fine = np.full((640, 800), 1000, np.float32)
    fine[::2] = 1100  # 3 m pixels in stripes, which picking single ones would show
    scene = open_pair(image, write_raster("dem.tif", fine, transform=from_origin(WEST, NORTH, 3, 3)))
    assert scene.attrs["resampling"] == "average"
    np.testing.assert_allclose(scene.dem, 1050, atol=0.01)


def test_scene_is_cropped_to_the_rectangle_with_elevation(write_raster, image, picture):
    patch = np.full((20, 30), 500, np.int16)
    scene = open_pair(image, write_raster("dem.tif", patch, transform=from_origin(WEST + 300, NORTH - 600, 30, 30)))
    np.testing.assert_array_equal(scene.rgb, picture[:, 20:40, 10:40])


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("float32", -9999), ("float32", -3.4028234663852886e38), ("float32", np.nan), ("int16", -32768),
     ("uint16", 65535), ("uint16", 0)],
)
def test_declared_nodata_becomes_nan_and_spoils_no_neighbor(write_raster, image, slope, dtype, nodata):
    values = slope.astype(dtype)
    values[10:20, 10:20] = nodata
    scene = open_pair(image, write_raster("dem.tif", values, nodata=nodata))
    hole = np.isnan(scene.dem.values)
    assert hole[11:19, 11:19].all() and not hole[:9].any()
    np.testing.assert_allclose(scene.dem.values[~hole], slope[~hole], atol=1)


@pytest.mark.parametrize("void", [-9999, -32768, 1e38])
def test_values_that_are_no_elevations_are_masked_counted_and_named(write_raster, image, slope, void):
    expected = slope[5:].copy()
    slope[:5] = void
    path = write_raster("dem.tif", slope)
    with pytest.warns(UserWarning, match=rf"dem\.tif: 400 values of {void:g} .* count as nodata".replace("+", r"\+")):
        scene = open_pair(image, path)
    np.testing.assert_array_equal(scene.dem, expected)
    assert open_pair(image, path, dem_nodata=void).sizes["y"] == 59


def test_a_dem_of_other_things_is_refused(write_raster, image, slope):
    with pytest.raises(NoElevation, match=r"dem\.tif holds values from 10000 to 12840, which are not elevations"):
        open_pair(image, write_raster("dem.tif", slope * 10))


def test_alpha_band_masks_the_elevation(write_raster, picture, dem):
    alpha = np.full((1, 64, 80), 255, np.uint8)
    alpha[:, 30:40, 30:40] = 0
    image = write_raster("image.tif", np.concatenate([picture, alpha]), photometric="RGB", alpha="yes")
    scene = open_pair(image, dem)
    assert scene.sizes["band"] == 3
    transparent = np.zeros((64, 80), bool)
    transparent[30:40, 30:40] = True
    np.testing.assert_array_equal(scene.dem.isnull(), transparent)


def test_of_four_bands_the_colors_are_taken_as_declared_or_asked_for(write_raster, picture, dem):
    image = write_raster("image.tif", np.concatenate([picture[:1] // 2, picture[::-1]]), photometric="MINISBLACK")
    with pytest.raises(UnsupportedImagery, match=r"image\.tif has 4 bands, .* --bands 4,3,2"):
        open_pair(image, dem)
    np.testing.assert_array_equal(open_pair(image, dem, bands=(4, 3, 2)).rgb, picture)
    with rasterio.open(image, "r+") as file:
        file.colorinterp = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    np.testing.assert_array_equal(open_pair(image, dem).rgb, picture)


def test_declared_image_nodata_masks_where_every_band_has_it(write_raster, picture, dem):
    picture[:, 5, 5] = 0
    picture[0, 9, 9] = 0  # a pixel without red, but with green and blue
    image = write_raster("image.tif", picture, nodata=0)
    missing = open_pair(image, dem).dem.isnull()
    assert missing[5, 5] and missing.sum() == 1
    assert not open_pair(image, dem, image_nodata=None).dem.isnull().any()


def test_reflectance_is_stretched_clipped_and_masked(write_raster, dem):
    reflectance = np.linspace(0, 0.6, 3 * 64 * 80, dtype=np.float32).reshape(3, 64, 80)
    reflectance[1, 3, 4] = np.nan
    scene = open_pair(write_raster("image.tif", reflectance), dem, stretch=(0.1, 0.4))
    known = ~np.isnan(reflectance).any(0)
    expected = (np.clip((reflectance - 0.1) / 0.3, 0, 1) * 255).round()
    assert scene.rgb.dtype == np.uint8
    np.testing.assert_allclose(scene.rgb.values[:, known], expected[:, known], atol=1)
    np.testing.assert_array_equal(scene.dem.isnull(), ~known)
    assert scene.attrs["stretch"] == "0.1 to 0.4 onto 0 to 255"


def test_16_bit_image_with_nodata_is_stretched(write_raster, picture, dem):
    numbers = picture.astype(np.uint16) * 100
    numbers[:, :4] = 65535
    scene = open_pair(write_raster("image.tif", numbers, nodata=65535), dem, stretch=(0, 25500))
    np.testing.assert_array_equal(scene.rgb, picture[:, 4:])


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int8"])
def test_image_that_is_not_uint8_needs_a_stretch_and_the_message_gives_its_range(write_raster, picture, dem, dtype):
    image = write_raster("image.tif", (picture // 4).astype(dtype))
    with pytest.raises(UnsupportedImagery, match=rf"image\.tif holds {dtype}, from 0 to 63, .*stretch=\(low, high\)"):
        open_pair(image, dem)


@pytest.mark.parametrize("stretch", [(1, 1), (2, 1), (0, float("nan"))])
def test_stretch_must_rise(write_raster, image, dem, stretch):
    with pytest.raises(UnsupportedImagery, match=r"image\.tif: stretch=.* lower to a higher"):
        open_pair(image, dem, stretch=stretch)


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_image_without_three_colors_is_refused(write_raster, picture, dem, bands):
    image = write_raster("image.tif", np.resize(picture, (bands, 64, 80)))
    with pytest.raises(UnsupportedImagery, match=rf"image\.tif has {bands} bands?, .*red, green and blue"):
        open_pair(image, dem)


def test_complex_image_is_refused(write_raster, picture, dem):
    image = write_raster("image.tif", picture.astype(np.complex64))
    with pytest.raises(UnsupportedImagery, match=r"image\.tif holds complex numbers \(complex64\): give real ones"):
        open_pair(image, dem)


def test_image_that_is_all_nodata_is_refused(write_raster, picture, dem):
    image = write_raster("image.tif", np.zeros_like(picture), nodata=0)
    with pytest.raises(UnsupportedImagery, match=r"image\.tif is all nodata: give an image"):
        open_pair(image, dem)


def test_missing_file_is_named(tmp_path, image, dem):
    with pytest.raises(UnreadableRaster, match=r"nowhere\.tif does not exist: check the path"):
        open_pair(image, tmp_path / "nowhere.tif")
    with pytest.raises(UnreadableRaster, match=r"nowhere\.tif does not exist: check the path"):
        open_pair(tmp_path / "nowhere.tif", dem)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("share", [0, 0.01, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("which", ["image", "dem"])
def test_truncated_file_is_named(image, dem, which, share):
    path = {"image": image, "dem": dem}[which]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableRaster, match=rf"{which}\.tif cannot be read .*: is it a whole raster file"):
        open_pair(image, dem)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "lacking", [{"crs": None}, {"transform": Affine.identity()}, {"crs": 'LOCAL_CS["site",UNIT["meter",1]]'}],
)
def test_raster_that_lies_nowhere_on_earth_is_refused(write_raster, picture, slope, image, dem, lacking):
    with pytest.raises(MissingCRS, match=r"lost\.tif does not say where on Earth it lies .*gdal_edit\.py -a_srs"):
        open_pair(write_raster("lost.tif", picture, **lacking), dem)
    with pytest.raises(MissingCRS, match=r"lost\.tif does not say where on Earth it lies"):
        open_pair(image, write_raster("lost.tif", slope, **lacking))


def test_rotated_raster_is_refused(write_raster, picture, dem):
    turned = Affine(28, 10, WEST, 10, -28, NORTH)
    with pytest.raises(UnreadableRaster, match=r"turned\.tif is rotated .*gdalwarp"):
        open_pair(write_raster("turned.tif", picture, transform=turned), dem)


@pytest.mark.parametrize(
    ("crs", "corner"), [("EPSG:32613", (WEST + 80 * 30, NORTH)), ("EPSG:4326", (12.5, 41.9)), ("EPSG:3031", (0, 0))],
)
def test_image_and_dem_that_do_not_overlap_are_both_named(write_raster, image, slope, crs, corner):
    size = 1e-4 if crs == "EPSG:4326" else 30
    far = write_raster("far.tif", slope, crs, from_origin(*corner, size, size))
    with pytest.raises(NoOverlap, match=r"image\.tif and .*far\.tif do not overlap: .* of the same place"):
        open_pair(image, far)


def test_dem_that_is_all_nodata_is_refused(write_raster, image, slope):
    with pytest.raises(NoElevation, match=r"dem\.tif is all nodata .*: give a DEM"):
        open_pair(image, write_raster("dem.tif", np.full_like(slope, -9999), nodata=-9999))


def test_dem_without_elevation_where_the_image_is_is_refused(write_raster, image):
    large = np.full((64, 160), -9999, np.float32)
    large[:, 90:] = 700  # the image ends at column 80
    with pytest.raises(NoElevation, match=r"dem\.tif is all nodata where it was read"):
        open_pair(image, write_raster("dem.tif", large, nodata=-9999))


def test_dem_of_several_bands_is_refused(write_raster, image, picture):
    with pytest.raises(NoElevation, match=r"dem\.tif has 3 bands .*: say which is elevation"):
        open_pair(image, write_raster("dem.tif", picture))


@pytest.mark.parametrize("crs", ["EPSG:32613", "EPSG:3857", "EPSG:2232"])
def test_ground_sampling_distance_is_in_meters_on_the_ground(write_raster, picture, slope, crs):
    """Web Mercator enlarges distances by 1 / cos(latitude); EPSG:2232 is in feet."""
    left, _, _, top = transform_bounds("EPSG:32613", crs, WEST, NORTH - 1920, WEST + 2400, NORTH)
    transform = from_origin(left, top, 30, 30)
    scene = open_pair(write_raster("i.tif", picture, crs, transform), write_raster("d.tif", slope, crs, transform))
    meters = {"EPSG:32613": 30, "EPSG:3857": 30 * np.cos(np.radians(40.46)), "EPSG:2232": 30 * 0.3048}[crs]
    assert ground_sampling_distance(scene) == pytest.approx((meters, meters), rel=0.005)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"), [("glo30/Rome-30m-DEM.tif", -50, 1500), ("glo30/glo_merged.tif", 1749, 2087)],
)
def test_real_glo30_is_resampled_onto_an_image(shared, write_raster, name, lowest, highest):
    path = shared / "data" / name
    with rasterio.open(path) as file:
        left, bottom, right, top = file.bounds
    size = (right - left) / 120
    colors = np.random.default_rng(0).integers(1, 255, (3, 60, 60), dtype=np.uint8)
    inside = from_origin(left + 30 * size, top - 30 * size, size, size)
    scene = open_pair(write_raster("image.tif", colors, "EPSG:4326", inside), path)
    assert scene.sizes == {"band": 3, "y": 60, "x": 60}
    assert scene.attrs["resampling"] == "average" and not scene.dem.isnull().any()
    assert lowest < scene.dem.min() < scene.dem.max() < highest


def test_real_landsat_and_srtm_become_a_scene(shared, write_raster):
    window = Window(600, 200, 256, 256)
    bands = []
    for number in (4, 3, 2):
        with rasterio.open(shared / f"data/zion/landsat_b{number}.tif") as file:
            bands.append(file.read(1, window=window))
            crs, transform = file.crs, file.window_transform(window)
    image = write_raster("zion.tif", np.stack(bands), crs, transform, nodata=65535)
    scene = open_pair(image, shared / "data/zion/srtm.tif", stretch=(7000, 20000))
    assert scene.dem.shape == (256, 256) and scene.attrs["resampling"] == "cubic"
    assert 565 <= float(scene.dem.max() - scene.dem.min()) <= 1169  # relief of any 256 px tile there
    assert 20 < float(scene.rgb.mean()) < 235


def test_zion_that_is_there_is_not_fetched(shared, monkeypatch):
    monkeypatch.setenv("SAT2DEM_DATA", str(shared / "data"))
    monkeypatch.setattr(download.requests, "get", lambda *args, **kwargs: pytest.fail("asked the net"))
    assert fetch_scene(find_site("zion"), progress=False) == shared / "data/zion"
    scene = open_scene("zion")
    assert scene.rgb.shape == (3, 1428, 1128) and scene.rio.crs == "EPSG:32612"
    assert 1000 < float(scene.dem.min()) < float(scene.dem.max()) < 2900


def test_zion_comes_from_the_net_where_it_is_missing(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path / "data"))
    zion = find_site("zion")
    for file in zion.originals:
        path = tmp_path / "github" / file.url("").lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(shared / "data/zion" / file.name)
    with file_server(tmp_path / "github") as server:
        server.set(faults={"srtm.tif": ["cut"]})
        monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
        folder = fetch_scene(zion, progress=False, address=server.url)
        assert {path.name for path in folder.iterdir()} == {file.name for file in zion.originals}
    assert fetch_scene(zion, False, "http://127.0.0.1:9") == folder  # nothing is left to download
