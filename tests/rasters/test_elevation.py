"""Elevation in meters whatever the file's scale, unit and datum, right in every verb that reads it."""

import numpy as np
import pytest
import rasterio
import xarray as xr

from sat2dem_core.dataset.scenes import open_pair
from sat2dem_core.errors import NoElevation
from sat2dem_core.evaluation.two_rasters import score
from sat2dem_core.prediction.anchor_sources import read_dem
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.imagery import open_image


def edited(path, **settings):
    with rasterio.open(path, "r+") as file:
        for name, value in settings.items():
            setattr(file, name, value)
    return path


def plain(write, slope):
    return write("dem.tif", slope)


def in_feet(write, slope):
    return edited(write("dem.tif", slope / np.float32(0.3048)), units=("ft",))


def in_survey_feet(write, slope):
    return edited(write("dem.tif", (slope * 3937 / 1200).astype(np.float32)), units=("US survey foot",))


def in_feet_by_its_crs(write, slope):
    return write("dem.tif", slope / np.float32(0.3048), crs="EPSG:32613+8228")  # NAVD88 height (ft)


def scaled(write, slope):
    return edited(write("dem.tif", ((slope - 1000) * 4).astype(np.int16)), scales=(0.25,), offsets=(1000.0,))


def scaled_feet(write, slope):
    stored = np.round(slope / 0.3048 * 10).astype(np.int32)
    return edited(write("dem.tif", stored), scales=(0.1,), units=("feet",))


def named_band(write, slope):
    path = write("dem.tif", np.stack([slope * 0, slope, slope * 0 + 1]))
    return edited(path, descriptions=("interval", "elevation", "distance"))


def member_of_a_store(write, slope):
    path = write("dem.tif", slope)
    with rasterio.open(path) as file:
        crs, transform = file.crs, file.transform
    y, x = transform.f - 30 * (np.arange(64) + 0.5), transform.c + 30 * (np.arange(80) + 0.5)
    heights = xr.DataArray(slope, {"y": y, "x": x}, ("y", "x"))
    store = xr.Dataset({"elevation": heights, "interval": heights * 0})
    for name in store:
        store[name].attrs["_CRS"] = {"wkt": crs.to_wkt()}
    store.to_zarr(path.with_suffix(".zarr"), zarr_format=2)
    return path.with_suffix(".zarr")


WAYS = (plain, in_feet, in_survey_feet, in_feet_by_its_crs, scaled, scaled_feet, named_band, member_of_a_store)


@pytest.mark.parametrize("way", WAYS)
def test_every_verb_reads_the_same_meters(write_raster, picture, slope, way):
    dem, image = way(write_raster, slope), write_raster("image.tif", picture)
    truth = write_raster("truth.tif", slope)
    np.testing.assert_allclose(open_elevation(dem).read(0, 0, 64, 80), slope, atol=0.13)  # of quarter meters
    np.testing.assert_allclose(open_pair(image, dem).dem, slope, atol=0.13)
    np.testing.assert_allclose(read_dem(dem, open_image(image, 30, 30)).heights, slope, atol=0.13)
    for pair in ((dem, truth), (truth, dem)):
        assert score(*pair).measures.result()["MAE"] < 0.13


@pytest.mark.parametrize("void", [-32768.0, 1e38, -3.4e38, 65535.0])
def test_voids_are_masked_counted_and_named_by_every_verb(write_raster, picture, slope, void):
    holes = slope.copy()
    holes[:10] = void
    dem, image, truth = (
        write_raster("dem.tif", holes), write_raster("image.tif", picture), write_raster("truth.tif", slope)
    )
    said = r"dem.tif: 800 values of .* are not elevations, and count as nodata"
    with pytest.warns(UserWarning, match=said):
        np.testing.assert_array_equal(open_pair(image, dem).dem, slope[10:])
    with pytest.warns(UserWarning, match=said):
        heights = read_dem(dem, open_image(image, 30, 30)).heights
    assert np.isnan(heights[:10]).all() and np.allclose(heights[10:], slope[10:])
    for pair in ((dem, truth), (truth, dem)):
        with pytest.warns(UserWarning, match=said):
            assert score(*pair).measures.result()["MAE"] == 0


def test_what_holds_no_elevation_is_refused(write_raster, picture, slope):
    with pytest.raises(NoElevation, match="unit of band 1 is 'degC', which is none of length"):
        open_elevation(edited(write_raster("warm.tif", slope), units=("degC",)))
    three = write_raster("three.tif", picture)
    with pytest.raises(NoElevation, match="three.tif has 3 bands .*: say which is elevation, with --band"):
        open_elevation(three)
    assert np.array_equal(open_elevation(three, 2, nodata=None).read(0, 0, 64, 80), picture[1])
    with pytest.raises(NoElevation, match="no band 9"):
        open_elevation(three, 9)
    wrong = open_elevation(write_raster("centimeters.tif", slope * 100))
    wrong.read(0, 0, 64, 80)
    with pytest.raises(NoElevation, match=r"values from 100000 to 128400, which are not elevations in meters \(100%"):
        wrong.check()


def test_the_vertical_datum_is_read(write_raster, slope):
    assert open_elevation(write_raster("a.tif", slope)).vertical == ""
    assert open_elevation(write_raster("b.tif", slope, crs="EPSG:32613+5773")).vertical == "EGM96 height"
