"""Reading a store: one Zarr group of many tiles.

It has format 2 with consolidated metadata, so that xarray, GDAL and both generations of zarr read it: ``rgb`` (tile,
band, y, x; uint8), ``dem`` (tile, y, x; float32 meters, NaN for nodata), and for each tile its name, CRS, upper left
corner, provenance, lowest and highest point, and a digest of its pixels, so that a run need not read all tiles to know
them. :mod:`sat2dem_core.dataset.building` writes stores; until all tiles are there, they lie in ``<store>.part``.
Stores of earlier versions, with larger chunks and without extremes and digests, are read as well.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from psutil import virtual_memory

from sat2dem_core.dataset.grid import RESOLUTION, SIDE, Cell, block_split, cell_at
from sat2dem_core.dataset.splits import paper_split
from sat2dem_core.dataset.tiles import Tiles, extremes_of
from sat2dem_core.errors import DamagedStore, NoTiles
from sat2dem_core.rasters.atomic import part_of
from sat2dem_core.rasters.grids import to_degrees

VERSION = 1  # of the layout on disk
# Tiles per chunk, which is a file. A random batch touches a chunk for nearly every tile, and reads all of it: two tiles
# cost at most twice the bytes wanted, sixteen cost fifteen times as many (benchmarks/results/build.md).
CHUNK = 2
TOGETHER = 32  # tiles read at once where all are read


def open_store(path: str | os.PathLike) -> xr.Dataset:
    """Open a store as a lazy Dataset.

    Raises:
        DamagedStore: it does not exist, is unfinished, or has another version of the layout.
    """
    path = Path(path)
    if not path.is_dir():
        if part_of(path).is_dir():
            raise DamagedStore(f"{path} is not finished: the command that began it continues where it stopped")
        if path.exists():
            raise DamagedStore(
                f"{path} is a file, and a store of tiles is a folder such as valley.zarr: build or import one"
            )
        raise DamagedStore(f"{path} does not exist: build or import it, or check the path")
    try:
        dataset = xr.open_zarr(path, chunks=None, consolidated=True)
    except (OSError, ValueError, KeyError) as error:
        raise DamagedStore(f"{path} is no Zarr store ({error}): build it again") from error
    if dataset.attrs.get("sat2dem_version") != VERSION:
        layout = dataset.attrs.get("sat2dem_version", "unknown")
        raise DamagedStore(
            f"{path} has layout {layout}, and this program reads layout {VERSION}: build or import it again"
        )
    return dataset


def in_order(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """All tiles of an open store in their order, ``TOGETHER`` at a time, each read once."""
    for start in range(0, dataset.sizes["tile"], TOGETHER):
        yield dataset.isel(tile=slice(start, start + TOGETHER)).load()


def one_by_one(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """The tiles of an open store one at a time."""
    for some in in_order(dataset):
        yield from (some.isel(tile=number) for number in range(some.sizes["tile"]))


def elevation_range(dataset: xr.Dataset) -> tuple[float, float]:
    """Lowest and highest elevation of an open store, meters; NaN if every elevation is nodata."""
    extremes = _extremes(dataset)
    if extremes is None:
        extremes = np.concatenate([extremes_of(some.dem.values) for some in in_order(dataset[["dem"]])])
    return float(np.fmin.reduce(extremes[:, 0])), float(np.fmax.reduce(extremes[:, 1]))


def _extremes(dataset: xr.Dataset) -> np.ndarray | None:
    """The lowest and highest point of each tile, (N, 2) meters, if the store knows them."""
    if "lowest" not in dataset.coords:
        return None
    return np.stack([dataset.lowest.values, dataset.highest.values], -1)


def read_tiles(path: str | os.PathLike, numbers: Iterable[int] | None = None, *, lazy: bool = False) -> Tiles:
    """Read tiles of a store into memory.

    Args:
        numbers: positions of the tiles in the store, in the order wanted; all tiles if not given.
        lazy: leave images and elevation on disk, in arrays that read the tiles they are indexed with.

    Raises:
        DamagedStore: see :func:`open_store`.
    """
    dataset = open_store(path)
    corners = _corners(dataset)  # of all tiles: their middle is the origin
    if numbers is not None:
        numbers = list(numbers)
        dataset, corners = dataset.isel(tile=numbers), corners[numbers]
    rgb, dem = (dataset.rgb, dataset.dem) if lazy else (dataset.rgb.values, dataset.dem.values)
    return Tiles(
        rgb=rgb, dem=dem, ids=tuple(map(str, dataset.tile.values)),
        corners=corners, gsd=(RESOLUTION, RESOLUTION), extremes=_extremes(dataset),
        digests=tuple(map(str, dataset.digest.values)) if "digest" in dataset.coords else None,
    )


def _corners(dataset: xr.Dataset) -> np.ndarray:
    """Rows and columns (N, 2) of the tiles' corners, comparable across zones; zeros if a tile has no CRS."""
    places = list(zip(dataset.left.values, dataset.top.values, dataset.crs.values))
    if not all(crs for _, _, crs in places):
        return np.zeros((len(places), 2), int)
    transformers = {crs: to_degrees(str(crs)) for crs in set(dataset.crs.values)}
    lon, lat = np.array([transformers[crs].transform(left, top) for left, top, crs in places]).T
    degree = 111_195 / RESOLUTION  # px, on a sphere: accurate to half a percent
    return np.round(np.stack([-lat, (lon - lon.mean()) * np.cos(np.radians(lat.mean()))], -1) * degree).astype(int)


def read_parts(path: str | os.PathLike, split: str = "space", version: int = 1) -> tuple[Tiles, Tiles, Tiles]:
    """Read a store's training, validation and test tiles; they stay on disk if they would take most of the free memory.

    Tiles that hold no pair of image and elevation are left out, with a warning.

    Args:
        split: ``space`` or ``blocks``, by area (:func:`sat2dem_core.dataset.grid.block_split`), or ``paper``, shuffled
            (:func:`sat2dem_core.dataset.splits.paper_split`).
        version: seed of the split.

    Raises:
        DamagedStore: see :func:`open_store`; or a tile without a CRS is to be split by area.
        NoTiles: there are too few tiles for three parts.
    """
    dataset = open_store(path)
    count = dataset.sizes["tile"]
    numbers = paper_split(version, count) if split == "paper" else block_split(_cells(dataset, path), seed=version)
    empty = set(np.flatnonzero(dataset.nodata_share.values == 1))
    if empty:
        warnings.warn(
            f"{path}: {len(empty)} of {count} tiles hold no pair of image and elevation and are left out", stacklevel=2
        )
    parts = [sorted(set(part) - empty) for part in numbers]
    if not all(parts):
        raise NoTiles(f"the {count} tiles of {path} are too few for three parts: build a larger region")
    large = 2 * (dataset.rgb.nbytes + dataset.dem.nbytes) > virtual_memory().available
    train, validation, test = (read_tiles(path, part, lazy=large) for part in parts)
    return train, validation, test


def _cells(dataset: xr.Dataset, path: object) -> list[Cell]:
    """For each tile its cell of the grid; for a tile from elsewhere the cell that holds its center."""
    names = list(map(str, dataset.tile.values))
    if "overlaps" in dataset.coords:
        return [Cell.parse(name) for name in names]
    if lost := [name for name, crs in zip(names, dataset.crs.values) if not crs]:
        raise DamagedStore(
            f"{path}: {len(lost)} tiles ({lost[0]}, …) do not say where they lie: split them as the paper does, "
            "split='paper'"
        )
    places = zip(dataset.left.values, dataset.top.values, dataset.crs.values)
    return [cell_at(left + SIDE / 2, top - SIDE / 2, str(crs)) for left, top, crs in places]
