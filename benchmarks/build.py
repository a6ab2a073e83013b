"""Building a store from a catalog, and reading it: tiles a second, requests, bytes, and peak memory.

A STAC API and a file server on localhost offer six Sentinel-2 acquisitions with clouds, at their real resolution, and
GLO-30 elevation. Stores of growing size are built from them, each in a process of its own; then the tiles of the last
are read as training does, and compared with a pair of GeoTIFFs decoded for each sample.

Usage: python benchmarks/build.py [--sides 5 10 20] (needs PostgreSQL with PostGIS; writes results/build.md)
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
import zarr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from catalog import World, reflectance, _lonlat  # noqa: E402
from file_server import FileServer, file_server  # noqa: E402
from stac_api import stac_api  # noqa: E402

from sat2dem_core.dataset.grid import PIXELS, SIDE, Cell  # noqa: E402
from sat2dem_core.dataset.paper_folders import export_folders  # noqa: E402
from sat2dem_core.dataset.store import TOGETHER, open_store  # noqa: E402
from sat2dem_core.models.device import processor  # noqa: E402

CORNER = Cell(32630, 60, 570)  # south-west, near 40° N 3.4° W
BLOCK = 5  # tiles along the side of a scene
DATES = [f"2023-06-{day:02d}" for day in range(1, 31, 5)]


def make_world(world: World, side: int) -> None:
    """Scenes that cover a square of ``side`` tiles; the dates share their bands and have clouds of their own."""
    random = np.random.default_rng(0)
    size = BLOCK * 768  # px of 10 m
    for column in range(0, side, BLOCK):
        for row in range(0, side, BLOCK):
            left, top = CORNER.left + column * SIDE, CORNER.top + (row + BLOCK - 1) * SIDE
            lon, lat = _lonlat(CORNER.epsg, left, top, size, 10.0)
            files = dict(zip(("red", "green", "blue"), np.round(reflectance(lon, lat) * 10000).astype(np.uint16)))
            name = f"block_{column}_{row}"
            first = world._add("bands", name, DATES[0], CORNER.epsg, left, top, 10.0, files, {}, nodata=0)
            world.items.pop()
            for date in DATES:
                scl = np.full((size // 2, size // 2), 5, np.uint8)
                for y, x in random.integers(0, size // 2 - 300, (8, 2)):
                    scl[y : y + 300, x : x + 300] = 9
                properties = {
                    "platform": "sentinel-2a", "eo:cloud_cover": 100 * float((scl == 9).mean()),
                    "s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True,
                }
                item = world._add(
                    "sentinel-2-l2a", f"S2A_{column}_{row}_{date}", date, CORNER.epsg, left, top, 20.0, {"scl": scl},
                    properties, nodata=0,
                )
                item["assets"] |= first["assets"]
    for west in (-4, -3, -2, -1):
        for south in (39, 40, 41):
            world.add_elevation(west, south, step=1 / 3600)


def asked(server: FileServer, log: Path) -> np.ndarray:
    """What was asked since the servers began: requests to the catalog, requests of files, and their bytes."""
    catalog = len(re.findall(r'"(?:GET|POST) ', log.read_text(encoding="utf-8")))
    files = server.requests
    size = 0
    for name, wanted in files:
        if wanted:  # GDAL asks for ranges alone
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            size += min(last + 1, (server.folder / name).stat().st_size) - first
    return np.array([catalog, len(files), size])


def build(store: Path, side: int, url: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of a build in a process of its own."""
    inner = [Cell(CORNER.epsg, CORNER.column + n, CORNER.row + n).footprint.centroid for n in (0, side - 1)]
    region = [inner[0].x, inner[0].y, inner[1].x, inner[1].y]
    command = [sys.executable, "-m", "sat2dem_core", "data", "build", store, "--region", *map(str, region)]
    command += ["--start", DATES[0], "--end", DATES[-1], "--url", url, "--crs", f"EPSG:{CORNER.epsg}"]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the build of {side} x {side} tiles failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def earlier(store: Path, path: Path) -> Path:
    """The same store as earlier versions wrote it, with sixteen tiles a chunk."""
    dataset = open_store(store).load()
    for variable in dataset.variables.values():
        variable.encoding = {key: value for key, value in variable.encoding.items() if key == "compressors"}
    sizes = {"rgb": (16, 3, PIXELS, PIXELS), "dem": (16, PIXELS, PIXELS)}
    dataset.to_zarr(path, zarr_format=2, encoding={name: {"chunks": size} for name, size in sizes.items()})
    return path


def batches(count: int) -> list[np.ndarray]:
    """All tiles in random batches of sixteen, each in order, as an epoch reads them."""
    shuffled = np.random.default_rng(0).permutation(count)
    return [np.sort(shuffled[start : start + 16]) for start in range(0, count, 16)]


def bytes_read(store: Path) -> float:
    """Bytes on disk of the chunks that random batches touch, as a multiple of their tiles' bytes in memory."""
    read = wanted = 0
    for name in ("rgb", "dem"):
        array = zarr.open_group(store, mode="r")[name]
        for batch in batches(array.shape[0]):
            touched = {".".join([str(number // array.chunks[0]), *"0" * (array.ndim - 1)]) for number in batch}
            read += sum((store / name / chunk).stat().st_size for chunk in touched)
            wanted += array[:1].nbytes * len(batch)
    return read / wanted


def read_rates(store: Path, folder: Path, rounds: int = 5) -> dict[str, float]:
    """Tiles a second: from the store, in order, in random batches and tile by tile, and from pairs of GeoTIFFs."""
    group = zarr.open_group(store, mode="r")
    count = group["rgb"].shape[0]
    export_folders(store, folder / "deflated")
    for name in ("original_dem", "sentinel_images"):
        (folder / "plain" / name).mkdir(parents=True)
        for file in (folder / "deflated" / name).iterdir():
            with rasterio.open(file) as source, rasterio.open(
                folder / "plain" / name / file.name, "w", **(source.profile | {"compress": None})
            ) as target:
                target.write(source.read())

    def in_order():
        for start in range(0, count, TOGETHER):
            group["rgb"][start : start + TOGETHER], group["dem"][start : start + TOGETHER]

    def random(group):
        def read():
            for batch in batches(count):
                group["rgb"].oindex[batch], group["dem"].oindex[batch]
        return read

    def singles():
        for number in range(count):
            group["rgb"][number], group["dem"][number]

    def pairs(kind):
        def decode():
            for number in range(count):
                for name, stem in (("original_dem", "original_DEM"), ("sentinel_images", "sentinel")):
                    with rasterio.open(folder / kind / name / f"{stem}_cell_{number}.tif") as source:
                        source.read()
        return decode

    larger = zarr.open_group(earlier(store, folder / "earlier.zarr"), mode="r")
    ways = {
        "store, in order": in_order, "store, random batches of 16": random(group),
        "the same, 16 tiles a chunk as earlier": random(larger),
        "store, single tiles": singles, "GeoTIFF pairs, plain": pairs("plain"),
        "GeoTIFF pairs, deflated": pairs("deflated"),
    }
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sides", type=int, nargs="+", default=[5, 10, 20])
    sides = sorted(arguments.parse_args().sides)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        rows = []
        with file_server(folder / "files") as server:
            world = World(folder / "files", server.url, [])
            make_world(world, sides[-1])
            log = folder / "api.log"
            with stac_api(world.collections(), world.items, log) as url:
                for side in sides:
                    before = asked(server, log)
                    seconds, memory = build(folder / f"{side}.zarr", side, url)
                    catalog, files, size = asked(server, log) - before
                    count = open_store(folder / f"{side}.zarr").sizes["tile"]
                    rows.append(
                        f"| {count} | {seconds:.0f} | {count / seconds:.2f} | {memory:.0f} | {catalog} | "
                        f"{files / count:.0f} | {size / count / 1e6:.1f} |"
                    )
                    print(rows[-1], flush=True)
        last = folder / f"{sides[-1]}.zarr"
        rates = read_rates(last, folder)
        ratios = bytes_read(last), bytes_read(folder / "earlier.zarr")
    floor = rates["GeoTIFF pairs, plain"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("odc-stac", "rasterio", "zarr", "xarray"))
    text = f"""{processor()}, {os.cpu_count()} cores; {versions}

Six acquisitions of Sentinel-2 (bands of 10 m, mask of 20 m) and GLO-30 over HTTP, starting the process included.

| tiles | seconds | tiles a second | peak memory, MB | requests to the catalog | of files, a tile | MB, a tile |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}

Reading, one process, median of five rounds that take turns:

| from | tiles a second | times plain GeoTIFF pairs |
| --- | ---: | ---: |
""" + "\n".join(f"| {name} | {rate:.0f} | {rate / floor:.1f} |" for name, rate in rates.items()) + f"""

A random batch of 16 tiles reads {ratios[0]:.1f} times its bytes, and {ratios[1]:.1f} times with 16 tiles a chunk.
"""
    print(text)
    (ROOT / "benchmarks/results/build.md").write_text(text)


if __name__ == "__main__":
    main()
