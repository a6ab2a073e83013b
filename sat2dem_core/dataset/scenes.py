"""Scenes: a satellite image and the elevation of its area as one xarray Dataset.

A scene has ``rgb`` (band, y, x; uint8; red, green, blue) and ``dem`` (y, x; float32 meters, NaN for nodata) on one grid
in one CRS, the image's. ``attrs`` name its files and how they were processed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from sat2dem_core.errors import MissingCRS, NoElevation, NoOverlap, UnreadableRaster, UnsupportedImagery, choose
from sat2dem_core.paths import data_folder, downloads
from sat2dem_core.rasters.download import fetch
from sat2dem_core.terrain import HIGHEST, LOWEST

# The files of spDataLarge, each at the commit that holds it; origin and terms: data/README.md.
_SPDATA = "https://raw.githubusercontent.com/Nowosad/spDataLarge/{}/inst/raster/{}"
_BANDS, _SRTM = "cde9a48445ffb03ccb69fb1341bf683fd950f7bd", "4c2d08a97a0acea98a17ceb168df048df4bf00f2"
ZION_FILES = {
    "landsat_b2.tif": (_BANDS, "0f4ac0798411c99187b4595bd2068ed9d85f82f75d9ee3dc3c8a5191c7c8bea6"),
    "landsat_b3.tif": (_BANDS, "88751ab9faa4b025bc25fb953abea70bd5a13fa18d5f13e19a693f69bd8b80dd"),
    "landsat_b4.tif": (_BANDS, "7b7b1954d756a1af412bdaa4dad387c2088f83a5940faa6a80378cd9cf4f025a"),
    "landsat_b5.tif": (_BANDS, "ed18c36c1c24f7abb7220532d3678b53ef4c0a60b590eaccf0b2a7d8b60c14b8"),
    "srtm.tif": (_SRTM, "80452bc70c5f7a888a2ecae45f7c6857e0fc8ed5fe1a6f66767faa6580d84d1e"),
}


def _rocky_mountain() -> xr.Dataset:
    folder = data_folder("rocky-mountain")
    # The image declares 255 as nodata, but within the DEM 255 is sunlit snow; its white margin lies outside.
    scene = open_pair(folder / "rmnp-rgb.tif", folder / "rmnp-dem.tif", image_nodata=None)
    scene.attrs["name"] = "rocky-mountain"
    return scene


def fetch_zion(address: str = _SPDATA, progress: bool = True) -> Path:
    """Download Landsat 8 bands and SRTM elevation of Zion National Park, unless they are there; returns their folder.

    The elevation is CGIAR-CSI SRTM v4.1, whose terms forbid redistribution: the package downloads it and does not
    contain it.

    Raises:
        Unreachable, DamagedDownload, CannotWrite: see :func:`sat2dem_core.rasters.download.fetch`.
    """
    folder = downloads("zion")
    for name, (commit, sha256) in ZION_FILES.items():
        fetch(address.format(commit, name), folder / name, f"sha256:{sha256}", progress=progress)
    return folder


def _zion() -> xr.Dataset:
    """Landsat 8 at 30 m; the elevation is 90 m data, resampled smoothly, and has no finer relief."""
    folder = fetch_zion()
    bands = [folder / f"landsat_b{number}.tif" for number in (4, 3, 2)]
    # Level-1 numbers: 2e-5 times the value, minus 0.1, is reflectance at the top of the atmosphere, not corrected for
    # the sun's angle. The stretch is from 0 to 0.3.
    scene = open_pair(bands, folder / "srtm.tif", stretch=(5000, 20000))
    scene.attrs["name"] = "zion"
    return scene


SCENES = {"rocky-mountain": _rocky_mountain, "zion": _zion}


def open_scene(name: str = "rocky-mountain") -> xr.Dataset:
    """Open a scene by name: ``rocky-mountain`` ships with the package, ``zion`` (12 MB) is downloaded once.

    Raises:
        UnknownName: no such scene; the message lists the valid ones.
        Unreachable, DamagedDownload, CannotWrite: see :func:`sat2dem_core.rasters.download.fetch`.

    >>> dict(open_scene().sizes)
    {'x': 279, 'y': 263, 'band': 3}
    """
    return SCENES[choose("scene", name, SCENES)]()


def open_pair(
    image: str | os.PathLike | Sequence[str | os.PathLike], dem: str | os.PathLike, *,
    stretch: tuple[float, float] | None = None,
    image_nodata: float | str | None = "declared", dem_nodata: float | str | None = "declared",
) -> xr.Dataset:
    """Make a scene from your own image and DEM, GeoTIFFs in any CRS and resolution.

    The image keeps its grid. The DEM is resampled onto it: by cubic convolution where it is coarser, by averaging the
    source pixels where it is finer. Where the image has no value, the elevation becomes NaN, because there is no pair.
    Then the scene is cropped to the rectangle that holds elevation.

    Args:
        image: 3 bands (red, green, blue), or 4 of which the last is alpha; or three files of one band, in that order.
            uint8 is used as it is.
        dem: elevation in meters, one band.
        stretch: ``(low, high)``, mapped linearly to 0 and 255; values outside are clipped. Required for anything but
            uint8: reflectance as float might take ``(0, 0.3)``.
        image_nodata, dem_nodata: the value that marks missing pixels; by default the one that the file declares.
            ``None`` ignores the declared one. An image pixel is missing where every band has the value.

    Raises:
        UnreadableRaster, MissingCRS, UnsupportedImagery, NoOverlap, NoElevation: see each; all name the file.
    """
    files = [Path(image)] if isinstance(image, str | os.PathLike) else [Path(band) for band in image]
    rgb, valid = _read_image(files, stretch, image_nodata)
    elevation = _read_dem(Path(dem), dem_nodata)
    _check_overlap(rgb, elevation, files[0], dem)
    finer = max(map(abs, elevation.rio.resolution())) < _pixel_in(elevation.rio.crs, rgb)
    resampling = Resampling.average if finer else Resampling.cubic
    elevation = elevation.rio.reproject_match(rgb, resampling=resampling, nodata=np.nan)
    elevation = elevation.assign_coords(x=rgb.x, y=rgb.y).where(valid)
    elevation.attrs, elevation.encoding = {"units": "m", "long_name": "elevation"}, dict(rgb.encoding)
    scene = xr.Dataset({"rgb": rgb, "dem": elevation})
    scene.attrs.update(
        name=files[0].stem, image=", ".join(file.name for file in files), elevation=Path(dem).name,
        resampling=resampling.name,
        stretch="uint8 as read" if stretch is None else f"{stretch[0]:g} to {stretch[1]:g} onto 0 to 255",
    )
    return _crop_to_elevation(scene, dem)


def _open(path: Path) -> xr.DataArray:
    """A raster with its georeference, (band, y, x), in memory."""
    if not path.is_file():
        raise UnreadableRaster(f"{path} does not exist: check the path")
    try:
        with rasterio.open(path) as file:
            dtype, crs, transform = file.dtypes[0], file.crs, file.transform
        raster = rioxarray.open_rasterio(path).load()
    except RasterioError as error:
        raise UnreadableRaster(f"{path} cannot be read ({error}): is it a whole raster file? Fetch it again") from error
    if dtype.startswith("complex"):
        raise UnsupportedImagery(
            f"{path} holds complex numbers ({dtype}): give real ones, reflectance for an image and meters for a DEM"
        )
    if crs is None or not (crs.is_geographic or crs.is_projected) or transform.is_identity:
        raise MissingCRS(
            f"{path} does not say where on Earth it lies (no coordinate reference system or geotransform): "
            "set both with gdal_edit.py -a_srs and -a_ullr"
        )
    if transform.b or transform.d:
        raise UnreadableRaster(f"{path} is rotated against its own coordinate system: straighten it with gdalwarp")
    return raster


def _read_image(
    files: list[Path], stretch: tuple[float, float] | None, nodata: float | str | None
) -> tuple[xr.DataArray, xr.DataArray]:
    """The image as uint8 (3, y, x), and where it has a value (y, x)."""
    path, image = files[0], _stack_bands(files)
    with rasterio.open(path) as file:
        alpha = file.count == 4 and file.colorinterp[3] == ColorInterp.alpha
    _check_image(path, image, alpha, stretch)
    rgb = image[:3]
    valid = rgb.notnull().all("band")
    if alpha:
        valid &= image[3] > 0
    if nodata == "declared":
        nodata = image.rio.nodata
    if nodata is not None:
        valid &= (rgb != nodata).any("band")
    if not valid.any():
        raise UnsupportedImagery(f"{path} is all nodata: give an image with something in it, or its image_nodata")
    if stretch is not None:
        low, high = stretch
        scaled = (rgb.where(valid, low).astype("float32") - low) / (high - low)
        rgb = (scaled.clip(0, 1) * 255).round().astype("uint8")
    rgb = rgb.assign_coords(band=["red", "green", "blue"])
    rgb.attrs, rgb.encoding = {}, {"grid_mapping": "spatial_ref"}
    return rgb, valid


def _stack_bands(files: list[Path]) -> xr.DataArray:
    """One file with its bands, or several files of one band each as one image."""
    first, *others = bands = [_open(file) for file in files]
    if not others:
        return first
    for file, band in zip(files, bands):
        if band.sizes["band"] != 1 or band.rio.transform() != first.rio.transform() or band.shape != first.shape:
            raise UnsupportedImagery(f"{file} is not one band on the grid of {files[0]}: give three bands of one image")
    return xr.concat(bands, "band", join="override")


def _check_image(path: Path, image: xr.DataArray, alpha: bool, stretch: tuple[float, float] | None) -> None:
    if image.sizes["band"] != 3 and not alpha:
        raise UnsupportedImagery(
            f"{path} has {image.sizes['band']} band(s), but red, green and blue are needed, in that order: "
            "select them with gdal_translate -b"
        )
    if image.dtype != np.uint8 and stretch is None:
        raise UnsupportedImagery(
            f"{path} holds {image.dtype}, from {float(image.min()):g} to {float(image.max()):g}, not uint8: "
            "say with stretch=(low, high) which values become 0 and 255"
        )
    if stretch is not None and not stretch[0] < stretch[1]:
        raise UnsupportedImagery(f"{path}: stretch={stretch} must go from a lower to a higher value")


def _read_dem(path: Path, nodata: float | str | None) -> xr.DataArray:
    """Elevation as float32 (y, x), NaN for nodata."""
    dem = _open(path)
    if dem.sizes["band"] != 1:
        raise NoElevation(f"{path} has {dem.sizes['band']} bands: give a DEM of one band, elevation in meters")
    if nodata == "declared":
        nodata = dem.rio.nodata
    dem = dem.squeeze("band", drop=True)
    valid = ~np.isnan(dem) if nodata is None else ~np.isnan(dem) & (dem != nodata)
    dem = dem.astype("float32").where(valid)
    if not valid.any():
        raise NoElevation(f"{path} is all nodata: give a DEM with elevation in it")
    low, high = float(dem.min()), float(dem.max())
    if low < LOWEST or high > HIGHEST:
        raise NoElevation(
            f"{path} holds values from {low:g} to {high:g}, which are no elevations in meters: "
            "if one of them means nodata, give it as dem_nodata"
        )
    return dem.rio.write_nodata(np.nan)


def _check_overlap(rgb: xr.DataArray, dem: xr.DataArray, image_path: object, dem_path: object) -> None:
    left, bottom, right, top = transform_bounds(dem.rio.crs, rgb.rio.crs, *dem.rio.bounds())
    x0, y0, x1, y1 = rgb.rio.bounds()
    if right <= x0 or left >= x1 or top <= y0 or bottom >= y1:
        raise NoOverlap(
            f"{image_path} and {dem_path} do not overlap: in the image's CRS the image spans "
            f"x {x0:.5g} to {x1:.5g}, y {y0:.5g} to {y1:.5g}, the DEM x {left:.5g} to {right:.5g}, "
            f"y {bottom:.5g} to {top:.5g}; give a DEM of the same place"
        )


def _pixel_in(crs: object, rgb: xr.DataArray) -> float:
    """The image's pixel size in the units of another CRS."""
    left, bottom, right, top = transform_bounds(rgb.rio.crs, crs, *rgb.rio.bounds())
    return max((right - left) / rgb.rio.width, (top - bottom) / rgb.rio.height)


def _crop_to_elevation(scene: xr.Dataset, dem_path: object) -> xr.Dataset:
    valid = scene.dem.notnull()
    if not valid.any():
        raise NoElevation(f"{dem_path} has only nodata where the image is: give a DEM with elevation there")
    rows, columns = np.flatnonzero(valid.any("x")), np.flatnonzero(valid.any("y"))
    return scene.isel(y=slice(rows[0], rows[-1] + 1), x=slice(columns[0], columns[-1] + 1))
