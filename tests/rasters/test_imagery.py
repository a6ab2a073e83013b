"""Images of any size, grid and type, read as the networks need them."""

import warnings

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

from sat2dem_core.errors import MissingCRS, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.imagery import open_image

NEAR = (30.0, 30.0)


def test_an_image_on_square_pixels_of_the_models_size_is_taken_as_it_is(write_raster, picture):
    image = open_image(write_raster("a.tif", picture), *NEAR)
    assert not image.warped and image.grid.shape == (64, 80) and image.bands == (1, 2, 3)
    assert image.gsd == pytest.approx(30, rel=2e-3) and image.place[1] == pytest.approx(40.47, abs=0.1)
    rgb, valid = image.read(10, 20, 16, 24)
    assert np.array_equal(rgb, picture[:, 10:26, 20:44]) and valid.all()


def test_finer_pixels_are_averaged_onto_the_models(write_raster):
    fine = np.kron(np.random.default_rng(0).integers(30, 200, (3, 20, 30)), np.ones((3, 3))).astype(np.uint8)
    path = write_raster("fine.tif", fine, transform=from_origin(450_000, 4_480_000, 10, 10))
    image = open_image(path, *NEAR)
    assert image.warped and image.grid.shape == (20, 30) and image.gsd == pytest.approx(30, rel=2e-3)
    rgb, valid = image.read(0, 0, 20, 30)
    assert valid.all() and np.abs(rgb.astype(int) - fine[:, 1::3, 1::3]).max() <= 1


def test_degrees_become_meters_in_utm_also_in_the_south(write_raster, picture):
    path = write_raster("degrees.tif", picture, crs="EPSG:4326", transform=from_origin(-70.5, -33, 0.0003, 0.0003))
    image = open_image(path, 20, 40)
    crs, gsd = rasterio.crs.CRS.from_wkt(image.grid.crs), image.grid.transform[0]
    assert crs.to_epsg() == 32719 and 25 < gsd < 34 and image.place[1] < 0
    assert image.grid.transform[4] == -gsd


def test_a_rotated_image_becomes_upright_and_its_corners_are_not_valid(write_raster, picture):
    turned = Affine.translation(450_000, 4_480_000) * Affine.rotation(20) * Affine.scale(30, -30)
    image = open_image(write_raster("turned.tif", picture, transform=turned), *NEAR)
    rgb, valid = image.read(0, 0, image.grid.height, image.grid.width)
    assert 0.4 < valid.mean() < 0.95 and not valid[0, 0] and valid[image.grid.height // 2, image.grid.width // 2]


def test_a_model_of_a_range_of_pixel_sizes_takes_those_within_it(write_raster, picture):
    path = write_raster("coarse.tif", picture, transform=from_origin(450_000, 4_480_000, 90, 90))
    assert not open_image(path, 30, 150).warped
    with pytest.warns(UserWarning, match=r"pixels of 90 m.* trained on 30 to 30 m.* adds no detail"):
        assert open_image(path, *NEAR).gsd == pytest.approx(30, rel=0.01)


def test_an_image_far_finer_than_the_model_is_named_with_the_numbers(write_raster, picture):
    drone = picture.repeat(3, 1).repeat(3, 2)
    path = write_raster("drone.tif", drone, transform=from_origin(450_000, 4_480_000, 0.5, 0.5))
    warning = r"pixels of 0.5 m, .* trained on 30 to 30 m: the image is resampled to 30 m, which loses finer detail"
    with pytest.warns(UserWarning, match=warning):
        open_image(path, *NEAR)


def test_a_pixel_is_nodata_where_every_band_has_the_value(write_raster, picture):
    picture[:, 5:9] = 0
    picture[0, 20] = 0
    path = write_raster("holes.tif", picture, nodata=0)
    valid = open_image(path, *NEAR).read(0, 0, 64, 80)[1]
    assert not valid[5:9].any() and valid[20].all()
    assert open_image(path, *NEAR, nodata=None).read(0, 0, 64, 80)[1].all()
    warped = open_image(path, 60, 60)
    assert not warped.read(3, 0, 1, 40)[1].any() and warped.read(12, 0, 5, 40)[1].all()


def test_alpha_says_where_there_is_an_image(write_raster, picture):
    alpha = np.full((1, 64, 80), 255, np.uint8)
    alpha[:, :, :30] = 0
    path = write_raster("alpha.tif", np.concatenate([picture, alpha]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    valid = open_image(path, *NEAR).read(0, 0, 64, 80)[1]
    assert not valid[:, :30].any() and valid[:, 30:].all()
    assert not open_image(path, 60, 60).read(0, 0, 32, 14)[1].any()


def test_reflectance_is_stretched_and_a_warning_names_the_values(write_raster, picture):
    path = write_raster("float.tif", picture.astype(np.float32) / 1000)
    with pytest.warns(UserWarning, match=r"float32: .* 0.00\d+ and 0.2\d+, .*--stretch"):
        rgb, _ = open_image(path, *NEAR).read(0, 0, 64, 80)
    assert rgb.dtype == np.uint8 and rgb.min() == 0 and rgb.max() == 255
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rgb, _ = open_image(path, *NEAR, stretch=(0.0, 0.255)).read(0, 0, 64, 80)
    assert np.abs(rgb.astype(int) - picture).max() <= 1
    with pytest.raises(UnsupportedImagery, match="lower to a higher"):
        open_image(path, *NEAR, stretch=(1, 0))


def test_bands_are_found_by_name_and_taken_by_number_or_name(write_raster, picture):
    path = write_raster("four.tif", np.concatenate([picture[:1] // 2, picture[::-1]]), photometric="MINISBLACK")
    with pytest.raises(UnsupportedImagery, match="4 bands.*--bands"):
        open_image(path, *NEAR)
    assert open_image(path, *NEAR, bands=[4, 3, 2]).bands == (4, 3, 2)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B08", "B02", "B03", "B04")
    image = open_image(path, *NEAR)
    assert image.bands == (4, 3, 2) and np.array_equal(image.read(0, 0, 64, 80)[0], picture)
    assert open_image(path, *NEAR, bands=["B08", "green", "B02"]).bands == (1, 3, 2)
    for wrong, word in (([9, 1, 2], "no band 9"), (["nir", 1, 2], "no band nir"), ([1, 2], "three")):
        with pytest.raises(UnsupportedImagery, match=word):
            open_image(path, *NEAR, bands=wrong)


def named(write_raster, names: str, file: str = "image.tif", **tags):
    """A raster whose bands, with these names, each hold their own number."""
    names = names.split()
    values = np.stack([np.full((64, 80), number, np.uint8) for number in range(1, len(names) + 1)])
    path = write_raster(file, values, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = names
        raster.update_tags(**tags)
    return path


@pytest.mark.parametrize(("names", "expected"), [
    ("SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B7", (3, 2, 1)),  # Landsat 4 to 7
    ("SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B6 SR_B7", (4, 3, 2)),  # Landsat 8 and 9
    ("B01 B02 B03 B04 B08 B11", (4, 3, 2)),  # Sentinel-2, and Harmonized Landsat and Sentinel
    ("B2 B3 B4 B8 B8A B11 B12", (3, 2, 1)),  # Sentinel-2 as Earth Engine names it
    ("B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11", (4, 3, 2)),  # Landsat 8, level 1
    ("nir blue green red", (4, 3, 2)),
])
def test_missions_are_told_apart_by_their_bands(write_raster, names, expected):
    image = open_image(named(write_raster, names), *NEAR)
    assert image.bands == expected
    assert [int(band.flat[0]) for band in image.read(0, 0, 8, 8)[0]] == list(expected)


@pytest.mark.parametrize("names", ["B2 B3 B4", "SR_B2 SR_B3 SR_B4", "B1 B2 B3 B4 B5 B6 B7"])
def test_bands_that_fit_several_missions_are_asked_about(write_raster, names):
    with pytest.raises(UnsupportedImagery, match="fit several missions: .* Landsat 8 and 9 .* --bands .* 4 to 7 as"):
        open_image(named(write_raster, names), *NEAR)
    late, early = (names.split().index(names.split()[0][:-1] + number) + 1 for number in "43")
    for file in ("LC08_L2SP_034032.tif", "S2B_MSIL2A_20230604.tif"):
        assert open_image(named(write_raster, names, file), *NEAR).bands[0] == late
    if "B1" in names:
        assert open_image(named(write_raster, names, "LT05_L2SP_034032.tif"), *NEAR).bands[0] == early
        assert open_image(named(write_raster, names, SPACECRAFT_ID="LANDSAT_7"), *NEAR).bands[0] == early
        assert open_image(named(write_raster, names, SPACECRAFT_ID="LANDSAT_9"), *NEAR).bands[0] == late
    else:
        with pytest.raises(UnsupportedImagery, match="lacks band 1 of its mission"):
            open_image(named(write_raster, names, "LT05_L2SP_034032.tif"), *NEAR)


def test_one_band_is_refused_with_advice_that_fits(write_raster, picture):
    with pytest.raises(UnsupportedImagery, match="has 1 band, .* gdalbuildvrt -separate"):
        open_image(write_raster("gray.tif", picture[0]), *NEAR)
    path = write_raster("palette.tif", picture[0] // 16, photometric="PALETTE")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {value: (16 * value, 0, 0, 255) for value in range(16)})
    with pytest.raises(UnsupportedImagery, match="palette indices: .* gdal_translate -expand rgb"):
        open_image(path, *NEAR)


def test_a_band_order_that_looks_wrong_is_named(write_raster, picture):
    picture[2] = picture[0] // 2 + 128
    picture[0] //= 2
    with pytest.warns(UserWarning, match="blue is brighter than red"):
        open_image(write_raster("blue.tif", picture), *NEAR)


def test_an_image_without_coordinates_needs_the_size_of_its_pixels(tmp_path, picture):
    path = tmp_path / "nowhere.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", width=80, height=64, count=3, dtype="uint8") as file:
            file.write(picture)
    with pytest.raises(MissingCRS, match="--gsd"):
        open_image(path, *NEAR)
    with pytest.warns(UserWarning, match="has no coordinates, .* a pixel is 25 m wide"):
        image = open_image(path, *NEAR, gsd=25.0)
    assert image.grid.crs is None and image.gsd == 25 and np.array_equal(image.read(0, 0, 64, 80)[0], picture)


def test_what_cannot_be_read_or_shows_nothing_is_refused(tmp_path, write_raster, picture):
    with pytest.raises(UnreadableRaster, match="does not exist"):
        open_image(tmp_path / "none.tif", *NEAR)
    (tmp_path / "text.tif").write_text("no raster", encoding="utf-8")
    with pytest.raises(UnreadableRaster, match="cannot be read"):
        open_image(tmp_path / "text.tif", *NEAR)
    with pytest.raises(UnsupportedImagery, match="no valid pixel"):
        open_image(write_raster("empty.tif", picture * 0, nodata=0), *NEAR)
    with pytest.raises(UnsupportedImagery, match="is 0.5 almost everywhere: give an image with contrast"):
        open_image(write_raster("even.tif", np.full((3, 64, 80), 0.5, np.float32)), *NEAR)
    with pytest.raises(UnsupportedImagery, match="complex"):
        open_image(write_raster("complex.tif", picture.astype("complex64")), *NEAR)
