"""Building a store: each tile is made on its own and collected, and the store appears when all tiles are there.

:func:`build` makes tiles from open catalogs, :func:`assemble` from any function that makes one. An interrupted build
continues where it stopped, and its store is byte for byte the one that an undisturbed build writes.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr
import zarr
from numcodecs import Blosc
from tqdm import tqdm

from sat2dem_core.dataset.catalogs import Request
from sat2dem_core.dataset.grid import PIXELS, RESOLUTION, Cell, Region, cells, overlaps, read_region
from sat2dem_core.dataset.store import CHUNK, VERSION, open_store
from sat2dem_core.dataset.tiles import digest_of, extremes_of
from sat2dem_core.errors import DamagedStore, EmptySearch, Sat2DEMError, needs
from sat2dem_core.rasters.atomic import claimed, part_of, replacing

if TYPE_CHECKING:
    from dask.distributed import Client

WAITING = 4  # tasks submitted per thread: a task that waits costs memory
Task: TypeAlias = Callable[[], Sat2DEMError | None]
Results: TypeAlias = Generator[Sat2DEMError | None, None, None]


def build(
    path: str | os.PathLike, region: Region, request: Request, *, crs: str | None = None,
    client: "Client | None" = None, progress: bool = True,
) -> Path:
    """Build a store of all tiles that meet a region, or continue an interrupted build.

    Args:
        path: of the store; on a cluster, one that every worker can write to.
        region: see :func:`sat2dem_core.dataset.grid.read_region`; tiles: :func:`sat2dem_core.dataset.grid.cells`.
        client: a ``dask.distributed`` client whose workers build the tiles; without one, threads of this process do.

    Raises:
        InvalidRegion, EmptySearch, Unreachable, MissingAsset: see :mod:`sat2dem_core.dataset.stac`.
        MissingExtra: the packages that read catalogs are not installed.
        DamagedStore: the path holds a store or a build of another request.
        RunBusy: another process is building the same store.
    """
    with needs("catalogs"):
        from sat2dem_core.dataset import stac

    squares = cells(region, crs)
    attrs = {
        "license": f"{request.imagery.license}; {request.elevation.license}", "sensor": request.imagery.sensor,
        "start": request.start, "end": request.end, "stretch": list(request.stretch),
        "overlaps": _partners(squares),
    }
    jobs = {cell.id: cell for cell in squares}
    make = partial(stac.tile, request=request)
    check = partial(stac.check, request, read_region(region).bounds)
    return assemble(Path(path), jobs, make, asdict(request), attrs, before=check, client=client, progress=progress)


def _partners(squares: list[Cell]) -> dict[str, str]:
    """For each tile's name the names of the tiles that overlap it, separated by spaces."""
    partners: dict[str, list[str]] = {cell.id: [] for cell in squares}
    for a, b in overlaps(squares):
        partners[squares[a].id].append(squares[b].id)
        partners[squares[b].id].append(squares[a].id)
    return {name: " ".join(ids) for name, ids in partners.items()}


def assemble(
    path: Path, jobs: dict[str, Any], make: Callable[[Any], xr.Dataset], request: dict, attrs: dict, *,
    before: Callable[[], object] = lambda: None, client: "Client | None" = None, progress: bool = True,
) -> Path:
    """Make a store of tiles, each on its own, or continue an interrupted one.

    Args:
        jobs: for each tile's name the argument of ``make``, which returns a Dataset as
            :func:`sat2dem_core.dataset.stac.tile` does.
        request: what the tiles are made from; it distinguishes one store from another.
        attrs: of the store; ``overlaps`` among them becomes a column of the tiles.
        before: called once, unless the store exists.

    Raises:
        DamagedStore: the path holds a store or a part of another request, or a tile's name could lead elsewhere.
        RunBusy: another process is building the same store.
    """
    for name in jobs:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise DamagedStore(f"{name!r} is no name of a tile: use letters, digits, and _ - + . within it")
    names = hashlib.sha256(",".join(jobs).encode()).hexdigest()
    identity = json.dumps({"request": request, "tiles": names}, sort_keys=True)
    part = part_of(path)
    if _is_built(path, identity):
        shutil.rmtree(part, ignore_errors=True)  # left over where the end of a build was interrupted
        return path
    with claimed(part):
        try:
            if _is_built(path, identity):  # by another process in the meantime
                return path
            _begin(part / "build.json", identity, before)
            _collect(path, jobs, make, client, progress)
            return _seal(path, list(jobs), attrs | {"build": identity})
        finally:
            with suppress(OSError):
                part.rmdir()  # if nothing was begun


def _is_built(path: Path, identity: str) -> bool:
    """Whether the store exists.

    Raises:
        DamagedStore: it holds tiles of another request.
    """
    if not path.exists():
        return False
    if not _agree(open_store(path).attrs["build"], identity):
        raise DamagedStore(f"{path} holds tiles of another request: remove it, or choose another path")
    return True


def _agree(earlier: str, identity: str) -> bool:
    """Whether two builds are of the same tiles and request; what an earlier version did not ask for does not count."""
    then, now = json.loads(earlier), json.loads(identity)
    same_request = then.get("request", {}).items() <= now["request"].items()
    return then.get("tiles") == now["tiles"] and same_request


def _begin(begun: Path, identity: str, before: Callable[[], object]) -> None:
    """Check that an unfinished build is of the same request, and note the request."""
    if begun.exists() and not _agree(begun.read_text(encoding="utf-8"), identity):
        raise DamagedStore(
            f"{begun.parent} is an unfinished build of another request: remove it, or choose another path"
        )
    before()
    with replacing(begun) as temporary:
        temporary.write_text(identity, encoding="utf-8")


def _collect(
    path: Path, jobs: dict[str, Any], make: Callable[[Any], xr.Dataset], client: "Client | None", progress: bool
) -> None:
    """Make every tile that the part folder lacks. A tile that cannot be made ends the build; finished tiles stay."""
    part = part_of(path)
    missing = [name for name in jobs if not (part / f"{name}.npz").exists()]
    tasks = (partial(_stage, part, name, make, jobs[name]) for name in missing)
    results = _in_threads(tasks) if client is None else _on_cluster(tasks, client)
    initial = len(jobs) - len(missing)
    bar = tqdm(total=len(jobs), initial=initial, desc=path.name, unit="tile", disable=not progress)
    with closing(results), bar:
        for fault in results:
            if fault:
                raise fault
            bar.update()


def _stage(part: Path, name: str, make: Callable[[Any], xr.Dataset], job: Any) -> Sat2DEMError | None:
    """Make one tile and write it into the part folder; returns the error of a tile that cannot be made."""
    try:
        scene = make(job)
    except Sat2DEMError as error:  # returned, not raised: dask would log a traceback
        return error
    record = np.frombuffer(json.dumps(scene.attrs, sort_keys=True).encode(), np.uint8)
    with replacing(part / f"{name}.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, rgb=scene.rgb.values, dem=scene.dem.values, record=record)
    return None


def _in_threads(tasks: Iterator[Task]) -> Results:
    """Run tasks in one thread per CPU and yield their results as they come.

    When the caller stops early or the user interrupts, waiting tasks are dropped and running ones finish.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    try:
        running = {pool.submit(task) for task in islice(tasks, WAITING * threads)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
                running |= {pool.submit(task) for task in islice(tasks, 1)}
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(tasks: Iterator[Task], client: "Client") -> Results:
    """Run tasks on the workers of a dask cluster and yield their results as they come."""
    from dask.distributed import as_completed  # comes with the extra "cluster", as the client does

    slots = WAITING * max(sum(client.nthreads().values()), 1)
    running = as_completed([client.submit(task, pure=False) for task in islice(tasks, slots)])
    for future in running:
        yield future.result()
        for task in islice(tasks, 1):
            running.add(client.submit(task, pure=False))


def _seal(path: Path, names: list[str], attrs: dict) -> Path:
    """Pack the collected tiles into the store, which gets its name only when it is whole."""
    part = part_of(path)
    store = part / "store"
    shutil.rmtree(store, ignore_errors=True)
    group = zarr.open_group(store, mode="w", zarr_format=2)
    records = _pack(part, names, _create_arrays(group, len(names)))
    if all(record.get("nodata_share") == 1 for record in records):
        shutil.rmtree(part)
        raise EmptySearch(
            f"none of the {len(names)} tiles of {path} has both an image and elevation: the region is all sea or all "
            "cloud, or its acquisitions lack what the warnings name; choose another region, period or catalog"
        )
    _tabulate(names, records, attrs).to_zarr(store, mode="a", zarr_format=2, consolidated=False)
    zarr.consolidate_metadata(store, zarr_format=2)
    store.replace(path)
    shutil.rmtree(part)
    return path


def _create_arrays(group: zarr.Group, count: int) -> dict[str, zarr.Array]:
    """Empty arrays for so many tiles. Images hardly shrink and are read faster unpacked; elevation halves."""
    rgb = group.create_array(
        "rgb", shape=(count, 3, PIXELS, PIXELS), chunks=(CHUNK, 3, PIXELS, PIXELS), dtype="u1", fill_value=None,
        compressors=None,
    )
    dem = group.create_array(
        "dem", shape=(count, PIXELS, PIXELS), chunks=(CHUNK, PIXELS, PIXELS), dtype="f4", fill_value=np.nan,
        compressors=Blosc("lz4", shuffle=Blosc.SHUFFLE),
    )
    rgb.attrs["_ARRAY_DIMENSIONS"] = ["tile", "band", "y", "x"]
    dem.attrs.update({"_ARRAY_DIMENSIONS": ["tile", "y", "x"], "units": "m", "long_name": "elevation"})
    return {"rgb": rgb, "dem": dem}


def _pack(part: Path, names: list[str], arrays: dict[str, zarr.Array]) -> list[dict]:
    """Write the collected tiles into the arrays, a chunk at a time; returns the attributes of each tile."""
    records: list[dict] = []
    for start in range(0, len(names), CHUNK):
        tiles: dict[str, list[np.ndarray]] = {key: [] for key in arrays}
        for name in names[start : start + CHUNK]:
            with np.load(part / f"{name}.npz") as file:
                for key in arrays:
                    tiles[key].append(file[key])
                records.append(json.loads(file["record"].tobytes()))
            rgb, dem = tiles["rgb"][-1], tiles["dem"][-1]
            lowest, highest = map(float, extremes_of(dem[None])[0])
            records[-1] |= {"lowest": lowest, "highest": highest, "digest": digest_of(rgb, dem)}
        for key, array in arrays.items():
            array[start : start + CHUNK] = np.stack(tiles[key])
    return records


def _tabulate(names: list[str], records: list[dict], attrs: dict) -> xr.Dataset:
    """The tiles' names and attributes as coordinates, and the attributes of the store."""
    keys = sorted(set().union(*records))
    columns = {key: [_plain(record.get(key)) for record in records] for key in keys}
    attrs = dict(attrs)
    if partners := attrs.pop("overlaps", None):
        columns["overlaps"] = [partners[name] for name in names]
    coords = {key: ("tile", _column(values)) for key, values in columns.items()}
    table = xr.Dataset(coords={"tile": np.array(names, dtype=object), "band": ["red", "green", "blue"], **coords})
    table.attrs = attrs | {"sat2dem_version": VERSION, "resolution": RESOLUTION}
    return table


def _plain(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value


def _column(values: list) -> np.ndarray:
    return np.array(values, dtype=object if isinstance(values[0], str) else None)
