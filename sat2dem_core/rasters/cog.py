"""Predictions on disk: the Zarr arrays that a mosaic collects in, and what a user gets, a Cloud-Optimized GeoTIFF or Zarr."""

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

BANDS = {"elevation": "m", "interval": "m", "distance": "1"}  # and their units
NODATA = -9999.0
Finish = Callable[[int, int], np.ndarray]
COLUMNS = 1024  # of a chunk
CACHE = 64  # MB that GDAL may keep; its default, a twentieth of the memory, is gigabytes


def scratch(path: Path, image: Image, rows: int) -> zarr.Group:
    """Arrays for a mosaic, unless they are there; format 2, which GDAL and both generations of zarr read."""
    group = zarr.open_group(path, mode="a", zarr_format=2)
    for name in BANDS:
        array = group.require_array(
            name, shape=(image.height, image.width), chunks=(rows, min(COLUMNS, image.width)), dtype="float32", fill_value=np.nan,
        )
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    return group


def write_cog(
    out: Path, image: Image, finish: Finish, tags: dict[str, str], rows: int, client: Any, progress: bool
) -> None:
    """Write a Cloud-Optimized GeoTIFF, some rows at a time, beside its name, then rename it.

    Args:
        finish: gives rows ``top`` to ``bottom`` of all bands: (3, rows, width) float32, NaN where nothing is known.
        tags: what the file says about itself.
        rows: at a time.
        client: not used: one process writes a file.

    Raises:
        CannotWrite: the disk is full, say; nothing stands under the name.
    """
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": len(BANDS), "height": image.height, "width": image.width,
        "nodata": NODATA, "tiled": True, "blockxsize": 512, "blockysize": rows, "interleave": "band", "bigtiff": "if_safer",
    }
    if image.crs is not None:
        profile |= {"crs": image.crs, "transform": Affine(*image.transform)}
    plain = out.with_name(f".{out.name}.parts") / "plain.tif"
    with rasterio.Env(GDAL_CACHEMAX=CACHE), replacing(out) as beside:
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
            plain, beside, driver="COG", compress="deflate", predictor="yes", blocksize=512, statistics="yes",
            overview_resampling="average", bigtiff="if_safer", num_threads="all_cpus",
        )
        plain.unlink()


def write_zarr(
    out: Path, image: Image, finish: Finish, tags: dict[str, str], rows: int, client: Any, progress: bool
) -> None:
    """Write a Zarr store that xarray opens as a Dataset with coordinates; arguments as for :func:`write_cog`.

    With a client, its workers write.
    """
    part = part_of(out)
    try:
        shutil.rmtree(part, ignore_errors=True)
        group = scratch(part, image, rows)
        group.attrs.update({name.lower(): text for name, text in tags.items()})
        transform = Affine(*image.transform)
        x = transform.c + transform.a * (np.arange(image.width) + 0.5)
        y = transform.f + transform.e * (np.arange(image.height) + 0.5)
        for name, places in {"x": x, "y": y}.items():
            group.create_array(name, data=places).attrs["_ARRAY_DIMENSIONS"] = [name]
        if image.crs is not None:
            where = group.create_array("spatial_ref", data=np.array(0, np.int32))
            geotransform = " ".join(map(repr, transform.to_gdal()))
            where.attrs.update({"_ARRAY_DIMENSIONS": []} | CRS.from_wkt(image.crs).to_cf() | {"GeoTransform": geotransform})
        for name, unit in BANDS.items():
            group[name].attrs.update({"units": unit, "coordinates": "spatial_ref", "grid_mapping": "spatial_ref"})
            if image.crs is not None:
                group[name].attrs["_CRS"] = {"wkt": image.crs}  # where GDAL looks for it
        spans = [(top, min(top + rows, image.height)) for top in range(0, image.height, rows)]
        if client is None:
            done = (_fill(str(part), finish, *span) for span in spans)  # type: ignore[func-returns-value]
        else:
            done = (future.result() for future in [client.submit(_fill, str(part), finish, *span, pure=False) for span in spans])
        for _ in tqdm(done, total=len(spans), desc="writing", disable=not progress):
            pass
        zarr.consolidate_metadata(part, zarr_format=2)
        before = out.with_name(f".{out.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            out.replace(before)
        part.replace(out)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(store: str, finish: Finish, top: int, bottom: int) -> None:
    group = zarr.open_group(store, mode="r+")
    for name, values in zip(BANDS, finish(top, bottom)):
        group[name][top:bottom] = values
