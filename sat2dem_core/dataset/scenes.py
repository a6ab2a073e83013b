"""Scenes: a satellite image and the elevation of its area as one xarray Dataset.

A scene has ``rgb`` (band, y, x; uint8; red, green, blue) and ``dem`` (y, x; float32 meters, NaN for nodata) on one grid
in one CRS, the image's. ``attrs`` name its files and how they were processed.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401  datasets have ``rio`` once this is imported
import xarray as xr

from sat2dem_core.dataset.originals import fetch_scene
from sat2dem_core.dataset.registry import find_site, read_registry
from sat2dem_core.errors import NoElevation, NoOverlap, UnknownName, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.fill import find_margin
from sat2dem_core.rasters.grids import Grid, transformer
from sat2dem_core.rasters.imagery import check_stretch, find_bands, to_bytes, warn_of_margin
from sat2dem_core.rasters.reader import Raster, check_place, check_real, opened


def open_scene(name: str = "rocky-mountain") -> xr.Dataset:
    """Open a scene of the registry: ``rocky-mountain`` ships with the package, the open ones are downloaded once.

    Attributes of the Dataset tell its region, sensor, place (longitude and latitude), date and the sun's azimuth, where
    they are known. :func:`sat2dem_core.dataset.registry.sites` lists all scenes.

    Raises:
        UnknownName: no such scene; the message lists the valid ones.
        UnreadableRaster: it is a development scene, whose files are not public and not on this computer.
        Unreachable, DamagedDownload, CannotWrite: see :func:`sat2dem_core.rasters.download.fetch`.

    >>> dict(open_scene().sizes)
    {'x': 279, 'y': 263, 'band': 3}
    """
    if name not in read_registry() and Path(name).exists():
        raise UnknownName(
            f"{name} is no scene: train on a store of tiles (.zarr, see sat2dem data build), or in Python on "
            "open_pair(image, dem)"
        )
    site = find_site(name)
    folder = fetch_scene(site)
    image = [folder / file for file in site.image]
    scene = open_pair(image, folder / site.dem, stretch=site.stretch, image_nodata=site.image_nodata)
    scene.attrs |= {"name": name, **site.attributes()}
    return scene


def open_pair(
    image: str | os.PathLike | Sequence[str | os.PathLike], dem: str | os.PathLike, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    image_nodata: float | str | None = "declared", dem_nodata: float | str | None = "declared",
    dem_band: int | str | None = None,
) -> xr.Dataset:
    """Make a scene from your own image and DEM, rasters in any CRS and resolution.

    The image keeps its grid, turned so that north is up. The DEM is resampled onto it: by cubic convolution where it is
    coarser, by averaging the source pixels where it is finer. Where the image has no value, the elevation becomes NaN,
    because there is no pair. Then the scene is cropped to the rectangle that holds elevation.

    Args:
        image: a raster whose bands are named, or that has three and perhaps alpha; or three files of one band: red,
            green and blue. uint8 is used as it is.
        bands: numbers (from 1) or names of red, green and blue in one file; by default as the file names them.
        dem: elevation; see :func:`sat2dem_core.rasters.elevation.open_elevation`.
        stretch: ``(low, high)``, mapped linearly to 0 and 255; values outside are clipped. Required for anything but
            uint8: reflectance as float might take ``(0, 0.3)``.
        image_nodata, dem_nodata: the value that marks missing pixels; by default the one that the file declares.
            ``None`` ignores the declared one. An image pixel is missing where every band has the value.
        dem_band: number or name of the band that is elevation.

    Raises:
        UnreadableRaster, MissingCRS, UnsupportedImagery, NoOverlap, NoElevation: see each; all name the file.
    """
    files = [image] if isinstance(image, str | os.PathLike) else list(image)
    rgb, valid, grid = _read_image(files, bands, stretch, image_nodata)
    elevation = open_elevation(dem, dem_band, dem_nodata)
    heights = elevation.on(grid)
    if np.isnan(heights).all() and not elevation.raster.touches(grid):
        raise _no_overlap(files[0], grid, dem, elevation.grid)
    elevation.check()
    scene = _as_dataset(rgb, np.where(valid, heights, np.nan), grid)
    scene.attrs.update(
        name=Path(files[0]).stem, image=", ".join(Path(file).name for file in files), elevation=Path(dem).name,
        resampling="average" if elevation.raster.averages(grid) else "cubic",
        stretch="uint8 as read" if stretch is None else f"{stretch[0]:g} to {stretch[1]:g} onto 0 to 255",
    )
    return _crop_to_elevation(scene, dem)


def _read_image(
    files: list[str | os.PathLike], bands: Sequence[int | str] | None, stretch: tuple[float, float] | None,
    nodata: float | str | None,
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """The image as uint8 (3, H, W), where it has a value (H, W), and its grid with north at the top."""
    rasters = _rasters(files, bands, nodata)
    grid, path = rasters[0].grid.turned(), files[0]
    if grid.transform[1] or grid.transform[3]:
        raise UnreadableRaster(f"{path} is rotated against its own coordinate system: straighten it with gdalwarp")
    _check_values(path, rasters[0], stretch)
    if nodata == "declared":
        rasters = _without_fill(path, rasters)
    parts = [raster.on(grid) for raster in rasters]
    values = np.concatenate(parts)
    together = len(rasters) == 1 or rasters[0].dtype.startswith("float")
    valid = np.isfinite(values).all(0) if together else np.isfinite(values).any(0)
    if not valid.any():
        raise UnsupportedImagery(f"{path} is all nodata: give an image with something in it, or its image_nodata")
    return to_bytes(np.nan_to_num(values), valid, stretch), valid, grid


def _rasters(
    files: list[str | os.PathLike], bands: Sequence[int | str] | None, nodata: float | str | None
) -> list[Raster]:
    """One file with its red, green and blue bands, or three files of one band each on one grid."""
    rasters = []
    for path in files:
        with opened(path) as file:
            if len(files) > 1 and file.count > 1:
                raise UnsupportedImagery(f"{path} has {file.count} bands: give one file with all, or three of one each")
            numbers = find_bands(file, path, bands) if len(files) == 1 else (1,)
            rasters.append(Raster.of(file, path, numbers, nodata))
            check_real(rasters[-1])
            check_place(file, path)
    if len(files) not in (1, 3):
        raise UnsupportedImagery(f"{len(files)} files given for red, green and blue: give one, or three")
    for path, raster in zip(files, rasters):
        if raster.grid.shape != rasters[0].grid.shape or rasters[0].grid.offset(raster.grid) != (0, 0):
            raise UnsupportedImagery(f"{path} is not on the grid of {files[0]}: give three bands of one image")
    return rasters


def _without_fill(path: object, rasters: list[Raster]) -> list[Raster]:
    """The rasters with an undeclared margin of fill counted as nodata."""
    parts = [raster.reduced() for raster in rasters]
    values, valid = np.concatenate([part[0] for part in parts]), np.any([part[1] for part in parts], 0)
    if not (margin := find_margin(values, valid)):
        return rasters
    warn_of_margin(path, margin, "image_nodata=None")
    return [replace(raster, fill=margin.value) if margin.straight else raster for raster in rasters]


def _check_values(path: object, raster: Raster, stretch: tuple[float, float] | None) -> None:
    if raster.dtype != "uint8" and stretch is None:
        values, valid = raster.reduced()
        known = values[:, valid] if valid.any() else values
        raise UnsupportedImagery(
            f"{path} holds {raster.dtype}, from {float(known.min()):g} to {float(known.max()):g}, not uint8: "
            "say with stretch=(low, high) which values become 0 and 255"
        )
    check_stretch(path, stretch)


def _as_dataset(rgb: np.ndarray, heights: np.ndarray, grid: Grid) -> xr.Dataset:
    transform = grid.affine
    scene = xr.Dataset(coords={
        "x": transform.c + transform.a * (np.arange(grid.width) + 0.5),
        "y": transform.f + transform.e * (np.arange(grid.height) + 0.5), "band": ["red", "green", "blue"],
    })
    scene["rgb"] = ("band", "y", "x"), rgb
    scene["dem"] = ("y", "x"), heights.astype(np.float32)
    scene = scene.rio.write_crs(grid.crs).rio.write_transform(transform)
    scene.dem.attrs = {"units": "m", "long_name": "elevation"}
    for name in ("rgb", "dem"):
        scene[name].encoding["grid_mapping"] = "spatial_ref"
    return scene


def _no_overlap(image: object, grid: Grid, dem: object, other: Grid) -> NoOverlap:
    (x, y), (u, v) = grid.points(2), transformer(other.crs, grid.crs).transform(*other.points(2))
    return NoOverlap(
        f"{image} and {dem} do not overlap: in the image's CRS the image spans x {x.min():.5g} to {x.max():.5g}, "
        f"y {y.min():.5g} to {y.max():.5g}, the DEM x {min(u):.5g} to {max(u):.5g}, y {min(v):.5g} to {max(v):.5g}; "
        "give a DEM of the same place"
    )


def _crop_to_elevation(scene: xr.Dataset, dem_path: object) -> xr.Dataset:
    valid = scene.dem.notnull()
    if not valid.any():
        raise NoElevation(f"{dem_path} has only nodata where the image is: give a DEM with elevation there")
    rows, columns = np.flatnonzero(valid.any("x")), np.flatnonzero(valid.any("y"))
    return scene.isel(y=slice(rows[0], rows[-1] + 1), x=slice(columns[0], columns[-1] + 1))
