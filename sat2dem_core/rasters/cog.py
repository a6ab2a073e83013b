"""Predictions on disk: the arrays of an unfinished mosaic, and the finished Cloud-Optimized GeoTIFF or Zarr store."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from affine import Affine
from pyproj import CRS
from tqdm import tqdm

from sat2dem_core.rasters.atomic import cannot_write, part_of, replacing
from sat2dem_core.rasters.reader import Image

BANDS = {"elevation": "m", "interval": "m", "distance": "1"}  # with their units
NODATA = -9999.0
COLUMNS = 1024  # of a chunk
CACHE = 64  # MB of blocks that GDAL keeps; its default, a twentieth of the memory, can be gigabytes
Finish = Callable[[int, int], np.ndarray]  # gives rows of all bands; see write_cog


def scratch(path: Path, image: Image, rows: int) -> zarr.Group:
    """The arrays of a mosaic, made if they do not exist yet, in format 2, which GDAL and both versions of zarr read."""
    group = zarr.open_group(path, mode="a", zarr_format=2)
    for name in BANDS:
        array = group.require_array(
            name, shape=(image.height, image.width), chunks=(rows, min(COLUMNS, image.width)), dtype="float32",
            fill_value=np.nan,
        )
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    return group


def write_cog(
    out: Path, image: Image, finish: Finish, tags: dict[str, str], rows: int, client: Any, progress: bool
) -> None:
    """Write a Cloud-Optimized GeoTIFF under a temporary name, some rows at a time, then rename it to ``out``.

    Args:
        finish: gives the rows from ``top`` to ``bottom`` of all bands: (3, rows, width) float32, NaN for nodata.
        tags: metadata of the file.
        rows: number of rows to write at a time.
        client: not used, since one process writes a file.

    Raises:
        CannotWrite: for example, the disk is full; no file has the name ``out``.
    """
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": len(BANDS), "height": image.height, "width": image.width,
        "nodata": NODATA, "tiled": True, "blockxsize": 512, "blockysize": rows, "interleave": "band",
        "bigtiff": "if_safer",
    }
    if image.crs is not None:
        profile |= {"crs": image.crs, "transform": Affine(*image.transform)}
    plain = out.with_name(f".{out.name}.parts") / "plain.tif"
    with rasterio.Env(GDAL_CACHEMAX=CACHE), replacing(out) as temporary:
        with rasterio.open(plain, "w", **profile) as file:
            for number, (name, unit) in enumerate(BANDS.items(), 1):
                file.set_band_description(number, name)
                file.set_band_unit(number, unit)
            file.update_tags(**tags)
            for top in tqdm(range(0, image.height, rows), desc="writing", disable=not progress):
                bottom = min(top + rows, image.height)
                values = finish(top, bottom)
                window = rasterio.windows.Window(0, top, image.width, bottom - top)
                file.write(np.where(np.isnan(values), np.float32(NODATA), values), window=window)
        rasterio.shutil.copy(
            plain, temporary, driver="COG", compress="deflate", predictor="yes", blocksize=512, statistics="yes",
            overview_resampling="average", bigtiff="if_safer", num_threads="all_cpus",
        )
        plain.unlink()


def write_zarr(
    out: Path, image: Image, finish: Finish, tags: dict[str, str], rows: int, client: Any, progress: bool
) -> None:
    """Write a Zarr store that xarray opens as a Dataset with coordinates; arguments as for :func:`write_cog`.

    If a client is given, its workers write the rows.
    """
    part = part_of(out)
    try:
        shutil.rmtree(part, ignore_errors=True)
        group = scratch(part, image, rows)
        group.attrs.update({name.lower(): text for name, text in tags.items()})
        _describe_grid(group, image)
        spans = [(top, min(top + rows, image.height)) for top in range(0, image.height, rows)]
        if client is None:
            done = (_fill(str(part), finish, *span) for span in spans)  # type: ignore[func-returns-value]
        else:
            futures = [client.submit(_fill, str(part), finish, *span, pure=False) for span in spans]
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


def _describe_grid(group: zarr.Group, image: Image) -> None:
    """Add coordinates, coordinate reference system and units, as xarray, rioxarray and GDAL look for them."""
    transform = Affine(*image.transform)
    x = transform.c + transform.a * (np.arange(image.width) + 0.5)
    y = transform.f + transform.e * (np.arange(image.height) + 0.5)
    for name, centers in {"x": x, "y": y}.items():
        group.create_array(name, data=centers).attrs["_ARRAY_DIMENSIONS"] = [name]
    if image.crs is not None:
        reference = group.create_array("spatial_ref", data=np.array(0, np.int32))
        geotransform = {"GeoTransform": " ".join(map(repr, transform.to_gdal()))}
        reference.attrs.update({"_ARRAY_DIMENSIONS": []} | CRS.from_wkt(image.crs).to_cf() | geotransform)
    for name, unit in BANDS.items():
        group[name].attrs.update({"units": unit, "coordinates": "spatial_ref", "grid_mapping": "spatial_ref"})
        if image.crs is not None:
            group[name].attrs["_CRS"] = {"wkt": image.crs}  # GDAL's


def _fill(store: str, finish: Finish, top: int, bottom: int) -> None:
    group = zarr.open_group(store, mode="r+")
    for name, values in zip(BANDS, finish(top, bottom)):
        group[name][top:bottom] = values
