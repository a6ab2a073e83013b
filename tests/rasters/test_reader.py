"""Rasters of any kind, opened and read in one way: what is data, on which grid, and where on Earth."""

import zipfile

import numpy as np
import pytest
import rasterio
import xarray as xr
from file_server import file_server
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine, from_origin

from sat2dem_core.dataset.scenes import open_pair
from sat2dem_core.errors import MissingCRS, UnreadableRaster
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.grids import Grid, convergence, pixel_sizes_by_row
from sat2dem_core.rasters.imagery import open_image
from sat2dem_core.rasters.reader import Raster, local_file, members, opened

UTM = "EPSG:32613"
WEST, NORTH = 450_000.0, 4_480_000.0


def raster(path, bands=(1,), nodata="declared") -> Raster:
    with opened(path) as file:
        return Raster.of(file, path, bands, nodata)


def grid(size: float, height: int, width: int, crs=UTM, west=WEST, north=NORTH) -> Grid:
    return Grid(CRS.from_user_input(crs).to_wkt(), tuple(from_origin(west, north, size, size))[:6], height, width)


# What is not data


def with_mask_inside(path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(known())


def with_mask_beside(path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(known())
    assert path.with_name(f"{path.name}.msk").exists()


def with_alpha(path):
    with rasterio.open(path) as file:
        profile, values = file.profile, file.read()
    with rasterio.open(path, "w", **profile | {"count": 4}) as file:
        file.write(np.concatenate([values, 255 * known()[None].astype(np.uint8)]))
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]


def with_nodata(path):
    with rasterio.open(path, "r+") as file:
        file.nodata = 7
        values = file.read()
        values[:, ~known()] = 7
        file.write(values)


def known() -> np.ndarray:
    """The left half of the picture is void."""
    mask = np.zeros((64, 80), bool)
    mask[:, 40:] = True
    return mask


MARKS = (with_mask_inside, with_mask_beside, with_alpha, with_nodata)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("size", [30.0, 60.0, 45.0])
def test_masks_alpha_and_nodata_count_on_every_grid(write_raster, picture, mark, size):
    path = write_raster("image.tif", np.maximum(picture, 8), photometric="RGB")
    mark(path)
    image = open_image(path, size, size)
    rgb, valid = image.read(0, 0, *image.grid.shape)
    half = round(40 * 30 / size)
    assert not valid[:, : half - 2].any() and valid[:, half + 2 :].all()
    inside = np.maximum(picture, 8)[:, :, 44:].mean()
    assert rgb[:, :, half + 4 :].mean() == pytest.approx(inside, abs=2)  # voids did not darken it


def test_a_mask_that_is_not_of_nodata_stays_where_nodata_is_ignored(write_raster, picture):
    path = write_raster("image.tif", picture, photometric="RGB")
    with_mask_inside(path)
    assert not open_image(path, 30, 30, nodata=None).read(0, 0, 64, 80)[1][:, :40].any()


def test_each_band_has_a_nodata_value_of_its_own(tmp_path, write_raster, picture):
    parts = [write_raster(f"{n}.tif", np.full((64, 80), 10 * n, np.uint8), nodata=10 * n) for n in (1, 2, 3)]
    sources = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><NoDataValue>{10 * n}</NoDataValue><SimpleSource><SourceFilename>'
        f"{path}</SourceFilename></SimpleSource></VRTRasterBand>" for n, path in enumerate(parts, 1)
    )
    with rasterio.open(parts[0]) as file:
        numbers = ",".join(map(str, file.transform.to_gdal()))
        place = f"<SRS>{file.crs.to_wkt()}</SRS><GeoTransform>{numbers}</GeoTransform>"
    vrt = tmp_path / "bands.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="80" rasterYSize="64">{place}{sources}</VRTDataset>', encoding="utf-8")
    assert not raster(vrt, (1, 2, 3)).read(0, 0, 64, 80)[1].any()
    assert raster(vrt, (1, 2, 3), nodata=None).read(0, 0, 64, 80)[1].all()


def test_averages_ignore_voids(write_raster):
    values = np.full((40, 40), 100, np.float32)
    values[::2] = np.nan
    values[:, :20] = -9999
    coarse = raster(write_raster("holes.tif", values, nodata=-9999)).on(grid(120, 10, 10))[0]
    assert np.isnan(coarse[:, :5]).all() and np.allclose(coarse[:, 5:], 100)


# On another grid


@given(row=st.integers(-20, 70), column=st.integers(-20, 90), height=st.integers(1, 30), width=st.integers(1, 30))
def test_a_window_of_the_own_grid_is_cut_and_not_resampled(tmp_path_factory, row, column, height, width):
    path = tmp_path_factory.getbasetemp() / "ramp.tif"
    values = np.arange(64 * 80, dtype=np.float32).reshape(64, 80)
    if not path.exists():
        profile = dict(driver="GTiff", width=80, height=64, count=1, dtype="float32", crs=UTM)
        with rasterio.open(path, "w", transform=from_origin(WEST, NORTH, 30, 30), **profile) as file:
            file.write(values, 1)
    source = raster(path)
    moved = source.grid.window(row, column, height, width)
    moved = Grid(moved.crs, tuple(np.add(moved.transform, (0, 0, 0.2, 0, 0, -0.2))), height, width)  # < 0.01 px
    padded = np.pad(values, 100, constant_values=np.nan)
    expected = padded[100 + row : 100 + row + height, 100 + column : 100 + column + width]
    np.testing.assert_array_equal(source.on(moved)[0], expected)


def test_blocks_of_a_large_raster_fit_together(write_raster, monkeypatch):
    rows, columns = np.mgrid[:300, :400]
    path = write_raster("large.tif", (1000 + rows + 2 * columns).astype(np.float32))
    target = grid(75, 110, 150, west=WEST + 10)
    whole = raster(path).on(target)
    monkeypatch.setattr("sat2dem_core.rasters.reader.BLOCK", 4000)
    np.testing.assert_allclose(raster(path).on(target), whole, atol=1e-2)
    assert np.isfinite(whole).mean() > 0.9


def field(lon, lat):
    """Elevation that depends on the place alone."""
    return 100 + 50 * np.sin(np.radians(lon * 40)) * np.cos(np.radians(lat * 30))


@pytest.mark.parametrize("west", [179.5, -180.5, 178.5, 359.5, 254.0, -0.5])
def test_a_raster_across_180_degrees_or_in_0_to_360_is_read_whole(write_raster, west):
    size, shape = 0.005, (200, 200)
    lon, lat = west + size * (np.arange(200) + 0.5), 10 - size * (np.arange(200) + 0.5)
    values = np.broadcast_to(field(lon % 360, lat[:, None]), shape).astype(np.float32)
    path = write_raster("wide.tif", values, "EPSG:4326", from_origin(west, 10, size, size))
    picture = np.repeat(values[None], 3, 0)
    image = open_image(
        write_raster("image.tif", picture, "EPSG:4326", from_origin(west, 10, size, size)), 600, 600, stretch=(0, 255)
    )
    rgb, valid = image.read(0, 0, *image.grid.shape)
    assert valid.mean() > 0.97
    heights = raster(path).on(image.grid)[0]
    x, y = image.grid.affine * np.meshgrid(np.arange(image.grid.width) + 0.5, np.arange(image.grid.height) + 0.5)
    lon, lat = Transformer.from_crs(image.grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    np.testing.assert_allclose(heights[valid], field(lon % 360, lat)[valid], atol=0.3)
    assert abs(rgb[0][valid] - heights[valid]).max() < 1


def test_grids_in_degrees_that_count_from_other_meridians_meet(write_raster, picture):
    """An image in 0 to 360 degrees, and a DEM of the same place in -180 to 180, with pixels of another size."""
    image = write_raster("image.tif", picture, "EPSG:4326", from_origin(254, 40, 0.01, 0.01))
    lon, lat = -107 + 0.02 * (np.arange(120) + 0.5), 41 - 0.02 * (np.arange(100) + 0.5)
    values, place = field(lon, lat[:, None]).astype(np.float32), from_origin(-107, 41, 0.02, 0.02)
    dem = write_raster("dem.tif", values, "EPSG:4326", place)
    pair = open_pair(image, dem)
    assert pair.sizes["x"] == 80 and pair.sizes["y"] == 64
    np.testing.assert_allclose(pair.dem, field(pair.x.values, pair.y.values[:, None]), atol=0.5)


def test_a_south_up_raster_is_turned(write_raster, picture, slope):
    up = Affine(30, 0, WEST, 0, 30, NORTH - 64 * 30)
    image = open_image(write_raster("image.tif", picture[:, ::-1], transform=up), 30, 30)
    assert image.grid.affine == from_origin(WEST, NORTH, 30, 30)
    rgb, valid = image.read(0, 0, 64, 80)
    assert valid.all() and np.array_equal(rgb, picture)
    dem = open_elevation(write_raster("dem.tif", slope[::-1], transform=up))
    np.testing.assert_allclose(dem.on(image.grid), slope, atol=1e-3)


def test_a_grid_knows_true_north_and_the_size_of_pixels_in_each_row():
    assert convergence(grid(30, 100, 100)) == pytest.approx(0, abs=1)
    polar = Grid(CRS.from_epsg(3413).to_wkt(), (60, 0, -2_187_000, 0, -60, -1500), 50, 50)  # on the meridian of 135° W
    assert convergence(polar) % 360 == pytest.approx(270, abs=0.5)
    degrees = Grid(CRS.from_epsg(4326).to_wkt(), (0.5, 0, 0, 0, -0.5, 60), 120, 10)
    down, along = pixel_sizes_by_row(degrees)
    assert along[0] == pytest.approx(0.5 * 111_320 * np.cos(np.radians(59.75)), rel=0.005)
    assert along[-1] == pytest.approx(0.5 * 111_320, rel=0.005) and np.ptp(down) < 600


# Opening


def test_archives_addresses_and_virtual_rasters_are_opened(tmp_path, write_raster, picture):
    path = write_raster("i.tif", picture)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(path, "in/i.tif")
    with file_server(tmp_path) as server:
        names = [
            path, str(path), f"/vsizip/{tmp_path}/p.zip/in/i.tif", f"zip://{tmp_path}/p.zip!in/i.tif",
            f"{server.url}/i.tif", f"/vsicurl/{server.url}/i.tif",
        ]
        for name in names:
            assert np.array_equal(open_image(name, 30, 30).read(0, 0, 64, 80)[0], picture), name
        with pytest.raises(UnreadableRaster, match="none.tif cannot be read .*404"):
            open_image(f"{server.url}/none.tif", 30, 30)
    assert [local_file(name) for name in names] == [path, path, *[tmp_path / "p.zip"] * 2, None, None]


def test_a_colon_in_the_name_of_a_file_is_a_colon(write_raster, picture):
    path = write_raster("NETCDF:1.tif", picture)
    assert np.array_equal(open_image(path, 30, 30).read(0, 0, 64, 80)[0], picture) and local_file(path) == path


def test_jpeg_2000_is_read(write_raster, tmp_path, picture):
    smooth = np.repeat(np.linspace(20, 220, 80, dtype=np.uint8)[None], 64, 0)
    path = tmp_path / "image.jp2"
    with rasterio.open(write_raster("i.tif", np.stack([smooth] * 3), photometric="RGB")) as file:
        rasterio.shutil.copy(file, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    assert np.array_equal(open_image(path, 30, 30).read(0, 0, 64, 80)[0][1], smooth)


def test_a_container_lists_its_members(tmp_path):
    values = xr.DataArray(np.zeros((8, 9), np.float32), dims=("y", "x"))
    xr.Dataset({"height": values, "slope": values}).to_zarr(tmp_path / "store.zarr", zarr_format=2)
    assert set(members(tmp_path / "store.zarr")) == {"height", "slope"}
    with pytest.raises(UnreadableRaster, match=r"store.zarr holds several rasters \((height, slope|slope, height)\)"):
        open_image(tmp_path / "store.zarr", 30, 30)


# Where on Earth


@pytest.mark.parametrize(("profile", "words"), [
    ({"crs": "EPSG:4326"}, ["up to 4480000", "called degrees", "-a_srs"]),
    ({"crs": "IAU_2015:49910"}, ["3396 km", "not on the Earth"]),
    ({"crs": None}, ["gdal_edit.py -a_srs", "-a_ullr", "--gsd"]),
    ({"transform": from_origin(-105, 40, 3e-4, 3e-4)}, ["pixels have no size", "-a_srs"]),
])
def test_a_place_that_cannot_be_is_refused_with_the_command_that_mends_it(write_raster, picture, profile, words):
    if (profile.get("crs") or "").startswith("IAU"):  # rasterio does not know the registry of planets, pyproj does
        profile = {"crs": CRS.from_user_input(profile["crs"]).to_wkt()}
    path = write_raster("lost.tif", picture, **profile)
    with pytest.raises(MissingCRS) as raised:
        open_image(path, 30, 30)
    for word in words:
        assert word in str(raised.value)


def test_ground_control_points_alone_are_no_grid(tmp_path, picture):
    path = tmp_path / "gcps.tif"
    points = [
        GroundControlPoint(row, column, WEST + 30 * column, NORTH - 30 * row)
        for row in (0, 63) for column in (0, 79)
    ]
    with rasterio.open(path, "w", driver="GTiff", width=80, height=64, count=3, dtype="uint8") as file:
        file.write(picture)
        file.gcps = points, rasterio.crs.CRS.from_epsg(32613)
    with pytest.raises(MissingCRS, match="ground control points and no geotransform: .* gdalwarp -tps gcps.tif"):
        open_image(path, 30, 30)


def test_interpolation_between_few_pixels_follows_the_terrain(write_raster):
    rows, columns = np.mgrid[:40, :40]
    plane, place = (rows * 3.0 + columns * 2).astype(np.float32), from_origin(WEST, NORTH, 90, 90)
    path = write_raster("coarse.tif", plane, transform=place)
    for method in (Resampling.cubic, Resampling.bilinear):
        fine = raster(path).on(grid(30, 60, 60, west=WEST + 900, north=NORTH - 900), method)[0]
        assert np.allclose(np.diff(fine, axis=1), 2 / 3, atol=1e-3) and np.allclose(np.diff(fine, axis=0), 1, atol=1e-3)
