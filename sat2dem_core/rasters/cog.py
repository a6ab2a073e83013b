"""Predictions on disk: the arrays of an unfinished mosaic, and the finished Cloud-Optimized GeoTIFFs or Zarr store."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from pyproj import CRS
from tqdm import tqdm

from sat2dem_core.rasters.atomic import cannot_write, part_of
from sat2dem_core.rasters.grids import Grid

BANDS = {"elevation": "m", "interval": "m", "distance": "1"}  # with their units
NODATA = -9999.0
COLUMNS = 1024  # of a chunk
CACHE = 64  # MB of blocks that GDAL keeps; its default, a twentieth of the memory, can be gigabytes
Bands = Mapping[str, str]  # names and units
Finish = Callable[[int, int], np.ndarray]  # gives rows of all bands; see write_cogs


def scratch(path: Path, grid: Grid, rows: int, units: Bands = BANDS) -> zarr.Group:
    """The arrays of a mosaic, made if they do not exist yet, in format 2, which GDAL and both versions of zarr read."""
    group = zarr.open_group(path, mode="a", zarr_format=2)
    for name in units:
        array = group.require_array(
            name, shape=grid.shape, chunks=(rows, min(COLUMNS, grid.width)), dtype="float32", fill_value=np.nan,
        )
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    return group


def write_cogs(
    paths: dict[str, Path], folder: Path, grid: Grid, finish: Finish, tags: dict[str, str], rows: int, progress: bool,
    units: Bands = BANDS,
) -> tuple[float, float]:
    """Write Cloud-Optimized GeoTIFFs of one band each, some rows at a time.

    Args:
        paths: the files to write, by the name of their band.
        folder: for plain GeoTIFFs, which are removed.
        finish: gives the rows from ``top`` to ``bottom`` of all bands: (bands, rows, width) float32, NaN for nodata.
        tags: metadata of the files.
        rows: number of rows to write at a time.
        units: of all bands that ``finish`` gives, by name, in its order.

    Returns:
        The lowest and the highest elevation.
    """
    plain = {name: folder / f"plain-{name}.tif" for name in paths}
    low, high = np.inf, -np.inf
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_new_file(path, name, units[name], grid, tags, rows))
                for name, path in plain.items()
            }
            for top in tqdm(range(0, grid.height, rows), desc="writing", disable=not progress):
                bottom = min(top + rows, grid.height)
                bands = dict(zip(units, finish(top, bottom)))
                low, high = np.fmin(low, bands["elevation"]).min(), np.fmax(high, bands["elevation"]).max()
                window = rasterio.windows.Window(0, top, grid.width, bottom - top)
                for name, file in files.items():
                    known = np.where(np.isnan(bands[name]), np.float32(NODATA), bands[name])
                    file.write(known, 1, window=window)
        for name, path in paths.items():
            rasterio.shutil.copy(
                plain[name], path, driver="COG", compress="deflate", predictor="yes", blocksize=512, statistics="yes",
                overview_resampling="average", bigtiff="if_safer", num_threads="all_cpus",
            )
            plain[name].unlink()
    return float(low), float(high)


def _new_file(
    path: Path, name: str, unit: str, grid: Grid, tags: dict[str, str], rows: int
) -> rasterio.io.DatasetWriter:
    """A plain GeoTIFF of one band, open for writing."""
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": 1, "height": grid.height, "width": grid.width,
        "nodata": NODATA, "tiled": True, "blockxsize": 512, "blockysize": rows, "bigtiff": "if_safer",
        "compress": "zstd", "zstd_level": 1, "predictor": 3,
    }
    if grid.crs is not None:
        profile |= {"crs": grid.crs, "transform": grid.affine}
    file = rasterio.open(path, "w", **profile)
    file.set_band_description(1, name)
    file.set_band_unit(1, unit)
    file.update_tags(**tags)
    return file


def write_zarr(
    out: Path, grid: Grid, finish: Finish, tags: dict[str, str], rows: int, client: Any, progress: bool,
    units: Bands = BANDS,
) -> None:
    """Write a Zarr store that xarray opens as a Dataset with coordinates; arguments as for :func:`write_cogs`.

    If a client is given, its workers write the rows.

    Raises:
        CannotWrite: for example, the disk is full; what had the name ``out`` is unchanged.
    """
    part = part_of(out)
    try:
        shutil.rmtree(part, ignore_errors=True)
        group = scratch(part, grid, rows, units)
        group.attrs.update({name.lower(): text for name, text in tags.items()})
        _describe_grid(group, grid, units)
        spans = [(top, min(top + rows, grid.height)) for top in range(0, grid.height, rows)]
        if client is None:
            done = (_fill(str(part), finish, *span, tuple(units)) for span in spans)  # type: ignore[func-returns-value]
        else:
            futures = [client.submit(_fill, str(part), finish, *span, tuple(units), pure=False) for span in spans]
            done = (future.result() for future in futures)
        for _ in tqdm(done, total=len(spans), desc="writing", disable=not progress):
            pass
        zarr.consolidate_metadata(part, zarr_format=2)
        old = out.with_name(f".{out.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            out.replace(old)
        part.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _describe_grid(group: zarr.Group, grid: Grid, units: Bands) -> None:
    """Add coordinates, coordinate reference system and units, as xarray, rioxarray and GDAL look for them."""
    transform = grid.affine
    x = transform.c + transform.a * (np.arange(grid.width) + 0.5)
    y = transform.f + transform.e * (np.arange(grid.height) + 0.5)
    for name, centers in {"x": x, "y": y}.items():
        group.create_array(name, data=centers).attrs["_ARRAY_DIMENSIONS"] = [name]
    if grid.crs is not None:
        reference = group.create_array("spatial_ref", data=np.array(0, np.int32))
        geotransform = {"GeoTransform": " ".join(map(repr, transform.to_gdal()))}
        reference.attrs.update({"_ARRAY_DIMENSIONS": []} | CRS.from_wkt(grid.crs).to_cf() | geotransform)
    for name, unit in units.items():
        group[name].attrs.update({"units": unit, "coordinates": "spatial_ref", "grid_mapping": "spatial_ref"})
        if grid.crs is not None:
            group[name].attrs["_CRS"] = {"wkt": grid.crs}  # GDAL's


def _fill(store: str, finish: Finish, top: int, bottom: int, names: tuple[str, ...]) -> None:
    group = zarr.open_group(store, mode="r+")
    for name, values in zip(names, finish(top, bottom)):
        group[name][top:bottom] = values
