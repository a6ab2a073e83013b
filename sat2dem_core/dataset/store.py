"""Tiles on disk: one Zarr store of many tiles, built so that nothing is lost.

A store is a Zarr group (format 2, consolidated: xarray, GDAL and both generations of zarr read it): ``rgb`` (tile,
band, y, x; uint8), ``dem`` (tile, y, x; float32 meters, NaN for nodata), and for each tile its name, CRS, origin and
provenance. While tiles come in, each lies alone in ``<store>.part``; the store appears when all are there.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from dask.distributed import Client, as_completed
from numcodecs import Blosc
from psutil import virtual_memory
from pyproj import Transformer
from tqdm import tqdm

from sat2dem_core.dataset import stac
from sat2dem_core.config import Request
from sat2dem_core.errors import DamagedStore, NoTiles, Sat2DEMError
from sat2dem_core.rasters.atomic import part_of, replacing
from sat2dem_core.dataset.grid import PIXELS, RESOLUTION, SIDE, Cell, Region, block_split, cell_at, cells, overlaps, read_region
from sat2dem_core.dataset.tiles import Tiles, paper_split

VERSION = 1  # of the layout on disk
CHUNK = 16  # tiles a chunk: large enough to read fast, small enough to read few


def build(
    path: str | os.PathLike, region: Region, request: Request, *, crs: str | None = None, client: Client | None = None,
    progress: bool = True,
) -> Path:
    """Build a store of all tiles that meet a region, or go on with an interrupted build.

    Args:
        path: of the store; on a cluster, one that every worker sees.
        region: see :func:`sat2dem_core.dataset.grid.read_region`; tiles: :func:`sat2dem_core.dataset.grid.cells`.
        client: a ``dask.distributed`` client whose workers build the tiles; without one they are built here, in turn.

    Raises:
        InvalidRegion, EmptySearch, Unreachable, MissingAsset: see :mod:`sat2dem_core.dataset.stac`.
        DamagedStore: the path holds a store or a build of another request.
    """
    path, squares = Path(path), cells(region, crs)
    partners: dict[str, list[str]] = {cell.id: [] for cell in squares}
    for a, b in overlaps(squares):
        partners[squares[a].id].append(squares[b].id)
        partners[squares[b].id].append(squares[a].id)
    extra = {
        "license": f"{request.imagery.license}; {request.elevation.license}", "sensor": request.imagery.sensor,
        "start": request.start, "end": request.end, "stretch": list(request.stretch),
        "overlaps": {name: " ".join(ids) for name, ids in partners.items()},
    }
    jobs = {cell.id: cell for cell in squares}
    bounds = read_region(region).bounds
    make, check = partial(stac.tile, request=request), partial(stac.check, request, bounds)
    return assemble(path, jobs, make, asdict(request), extra, before=check, client=client, progress=progress)


def assemble(
    path: Path, jobs: dict[str, Any], make: Callable[[Any], xr.Dataset], request: dict, attrs: dict, *,
    before: Callable[[], object] = lambda: None, client: Client | None = None, progress: bool = True,
) -> Path:
    """Make a store of tiles, each on its own, or go on with making it.

    Args:
        jobs: for each tile's name what ``make`` needs to make it: a Dataset as :func:`sat2dem_core.dataset.stac.tile` returns.
        request: what the tiles are made from, to tell one store from another.
        attrs: of the store; ``overlaps`` among them becomes a column of the tiles.
        before: called once, if there is anything to do.

    Raises:
        DamagedStore: the path holds a store or a part of another request.
    """
    names = hashlib.sha256(",".join(jobs).encode()).hexdigest()
    identity = json.dumps({"request": request, "tiles": names}, sort_keys=True)
    if path.exists():
        if open_store(path).attrs["build"] != identity:
            raise DamagedStore(f"{path} holds tiles of another request: remove it, or choose another path")
        shutil.rmtree(part_of(path), ignore_errors=True)  # left where the end of a build was interrupted
        return path
    begun = part_of(path) / "build.json"
    if begun.exists() and begun.read_text() != identity:
        raise DamagedStore(f"{begun.parent} is an unfinished build of another request: remove it, or choose another path")
    before()
    with replacing(begun) as beside:
        beside.write_text(identity)
    _collect(path, jobs, make, client, progress)
    return _seal(path, list(jobs), attrs | {"build": identity})


def open_store(path: str | os.PathLike) -> xr.Dataset:
    """A store as a lazy Dataset.

    Raises:
        DamagedStore: there is none, it is not finished, or it is of another version of the layout.
    """
    path = Path(path)
    if not path.is_dir():
        part = part_of(path)
        raise DamagedStore(
            f"{path} is not finished: the command that began it goes on where it stopped" if part.is_dir()
            else f"{path} does not exist: build or import it, or check the path"
        )
    try:
        dataset = xr.open_zarr(path, chunks=None, consolidated=True)
    except (OSError, ValueError, KeyError) as error:
        raise DamagedStore(f"{path} is no Zarr store ({error}): build it again") from error
    if dataset.attrs.get("sat2dem_version") != VERSION:
        raise DamagedStore(
            f"{path} has layout {dataset.attrs.get('sat2dem_version', 'unknown')}, this code reads layout {VERSION}: build "
            "or import it again"
        )
    return dataset


def in_chunks(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """The tiles of an open store in the parts that lie together on disk, each read once."""
    for start in range(0, dataset.sizes["tile"], CHUNK):
        yield dataset.isel(tile=slice(start, start + CHUNK)).load()


def one_by_one(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """The tiles of an open store, read chunk by chunk."""
    for chunk in in_chunks(dataset):
        yield from (chunk.isel(tile=number) for number in range(chunk.sizes["tile"]))


def elevation_range(dataset: xr.Dataset) -> tuple[float, float]:
    """Lowest and highest elevation of an open store, meters; NaN where it has none."""
    reach = np.array([(chunk.dem.min(), chunk.dem.max()) for chunk in in_chunks(dataset[["dem"]])])
    return float(np.fmin.reduce(reach[:, 0])), float(np.fmax.reduce(reach[:, 1]))


def read_tiles(path: str | os.PathLike, numbers: Iterable[int] | None = None, *, lazy: bool = False) -> Tiles:
    """Tiles of a store in memory, all of them or those of the given positions in the store, in that order.

    Args:
        lazy: leave pixels and elevation on disk, in arrays that read what they are indexed with.

    Raises:
        DamagedStore: see :func:`open_store`.
    """
    dataset = open_store(path)
    corners = _corners(dataset)  # of all, for their middle is where these are counted from
    if numbers is not None:
        numbers = list(numbers)
        dataset, corners = dataset.isel(tile=numbers), corners[numbers]
    rgb, dem = (dataset.rgb, dataset.dem) if lazy else (dataset.rgb.values, dataset.dem.values)
    return Tiles(
        rgb=rgb, dem=dem, ids=tuple(map(str, dataset.tile.values)),
        corners=corners, gsd=(RESOLUTION, RESOLUTION),
    )


def _corners(dataset: xr.Dataset) -> np.ndarray:
    """Where tiles of any zones lie beside each other, (N, 2) rows and columns; zeros where a tile does not say."""
    places = list(zip(dataset.left.values, dataset.top.values, dataset.crs.values))
    if not all(crs for _, _, crs in places):
        return np.zeros((len(places), 2), int)
    to_degrees = {crs: Transformer.from_crs(str(crs), "EPSG:4326", always_xy=True) for crs in set(dataset.crs.values)}
    lon, lat = np.array([to_degrees[crs].transform(left, top) for left, top, crs in places]).T
    degree = 111_195 / RESOLUTION  # px, on a sphere: good to half a percent
    return np.round(np.stack([-lat, (lon - lon.mean()) * np.cos(np.radians(lat.mean()))], -1) * degree).astype(int)


def read_parts(path: str | os.PathLike, split: str = "space", version: int = 1) -> tuple[Tiles, Tiles, Tiles]:
    """A store's tiles to train on, to validate and to test; on disk where they would take most of the free memory.

    Args:
        split: ``space`` or ``blocks``, by ground (:func:`sat2dem_core.dataset.grid.block_split`), or
            ``paper``, shuffled (:func:`sat2dem_core.dataset.tiles.paper_split`).
        version: seed of the split.

    Raises:
        DamagedStore: see :func:`open_store`; or a tile does not say where it lies, for a split by ground.
        NoTiles: there are too few tiles for three parts.
    """
    dataset = open_store(path)
    count = dataset.sizes["tile"]
    numbers = paper_split(version, count) if split == "paper" else block_split(_cells(dataset, path), seed=version)
    empty = set(np.flatnonzero(dataset.nodata_share.values == 1))
    if empty:
        warnings.warn(f"{path}: {len(empty)} of {count} tiles hold no pair of image and elevation and are left out", stacklevel=2)
    parts = [sorted(set(part) - empty) for part in numbers]
    if not all(parts):
        raise NoTiles(f"the {count} tiles of {path} are too few for three parts: build a larger region")
    large = 2 * (dataset.rgb.nbytes + dataset.dem.nbytes) > virtual_memory().available
    train, validation, test = (read_tiles(path, part, lazy=large) for part in parts)
    return train, validation, test


def _cells(dataset: xr.Dataset, path: object) -> list[Cell]:
    """The squares of the grid where the tiles lie, or, of tiles made elsewhere, where their centers lie."""
    names = list(map(str, dataset.tile.values))
    if "overlaps" in dataset.coords:
        return [Cell.parse(name) for name in names]
    if lost := [name for name, crs in zip(names, dataset.crs.values) if not crs]:
        raise DamagedStore(f"{path}: {len(lost)} tiles ({lost[0]}, …) do not say where they lie: split them as the paper does, split='paper'")
    half = SIDE / 2
    return [cell_at(left + half, top - half, str(crs)) for left, top, crs in zip(dataset.left.values, dataset.top.values, dataset.crs.values)]


def _collect(path: Path, jobs: dict[str, Any], make: Callable, client: Client | None, progress: bool) -> None:
    """Make every tile that does not lie in the part folder yet."""
    part = part_of(path)
    missing = iter([name for name in jobs if not (part / f"{name}.npz").exists()])
    done = sum((part / f"{name}.npz").exists() for name in jobs)
    own = client is None
    client = client or Client(processes=False, dashboard_address=None)
    try:
        with tqdm(total=len(jobs), initial=done, desc=path.name, unit="tile", disable=not progress) as bar:
            slots = 4 * max(sum(client.nthreads().values()), 1)  # waiting tasks cost memory, so only a few wait

            def submit(count: int) -> list:
                return [client.submit(_stage, part, name, make, jobs[name], pure=False) for name in islice(missing, count)]

            running = as_completed(submit(slots))
            for future in running:
                if fault := future.result():
                    raise fault  # a tile that cannot be made ends the build; what is there stays
                bar.update()
                for more in submit(1):
                    running.add(more)
    finally:
        if own:
            client.close()


def _stage(part: Path, name: str, make: Callable, job: Any) -> Sat2DEMError | None:
    try:
        scene = make(job)
    except Sat2DEMError as error:  # handed back, not raised: dask would log a traceback for what one sentence says
        return error
    record = np.frombuffer(json.dumps(scene.attrs, sort_keys=True).encode(), np.uint8)
    with replacing(part / f"{name}.npz") as beside, open(beside, "wb") as file:
        np.savez(file, rgb=scene.rgb.values, dem=scene.dem.values, record=record)
    return None


def _seal(path: Path, names: list[str], attrs: dict) -> Path:
    """Pack the collected tiles into the store, under its name only when it is whole."""
    part = part_of(path)
    store = part / "store"
    shutil.rmtree(store, ignore_errors=True)
    count, size = len(names), PIXELS
    group = zarr.open_group(store, mode="w", zarr_format=2)
    # Images hardly shrink, and reading them unpacked is faster; elevation halves.
    arrays = {
        "rgb": group.create_array("rgb", shape=(count, 3, size, size), chunks=(CHUNK, 3, size, size), dtype="u1", fill_value=None, compressors=None),
        "dem": group.create_array(
            "dem", shape=(count, size, size), chunks=(CHUNK, size, size), dtype="f4", fill_value=np.nan,
            compressors=Blosc("lz4", shuffle=Blosc.SHUFFLE),
        ),
    }
    records = []
    for start in range(0, count, CHUNK):
        loaded = []
        for name in names[start : start + CHUNK]:
            with np.load(part / f"{name}.npz") as file:
                loaded.append((file["rgb"], file["dem"]))
                records.append(json.loads(file["record"].tobytes()))
        for array, tiles in zip(arrays.values(), zip(*loaded)):
            array[start : start + CHUNK] = np.stack(tiles)
    arrays["rgb"].attrs["_ARRAY_DIMENSIONS"] = ["tile", "band", "y", "x"]
    arrays["dem"].attrs.update({"_ARRAY_DIMENSIONS": ["tile", "y", "x"], "units": "m", "long_name": "elevation"})
    columns = {key: [_plain(record.get(key)) for record in records] for key in sorted({key for record in records for key in record})}
    if partners := attrs.pop("overlaps", None):
        columns["overlaps"] = [partners[name] for name in names]
    coords = {key: ("tile", np.array(values, dtype=object if isinstance(values[0], str) else None)) for key, values in columns.items()}
    table = xr.Dataset(coords={"tile": np.array(names, dtype=object), "band": ["red", "green", "blue"], **coords})
    table.attrs = attrs | {"sat2dem_version": VERSION, "resolution": RESOLUTION}
    table.to_zarr(store, mode="a", zarr_format=2, consolidated=False)
    zarr.consolidate_metadata(store, zarr_format=2)
    store.replace(path)
    shutil.rmtree(part)
    return path


def _plain(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value
