"""A store of tiles made: each tile on its own, collected beside the store, which appears when all are there."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
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
from tqdm import tqdm

from sat2dem_core.dataset import stac
from sat2dem_core.dataset.catalogs import Request
from sat2dem_core.dataset.grid import PIXELS, RESOLUTION, Region, cells, overlaps, read_region
from sat2dem_core.dataset.store import CHUNK, VERSION, open_store
from sat2dem_core.errors import DamagedStore, Sat2DEMError
from sat2dem_core.rasters.atomic import part_of, replacing


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
