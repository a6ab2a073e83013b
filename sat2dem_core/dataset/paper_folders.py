"""The paper's data set and its layout, folders of GeoTIFFs paired by number: download, import and export."""

import os
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from tqdm import tqdm

from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.catalogs import ZENODO
from sat2dem_core.dataset.grid import PIXELS, RESOLUTION
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.store import elevation_range, one_by_one, open_store
from sat2dem_core.errors import (
    CannotWrite, DamagedStore, NoElevation, Unreachable, UnreadableRaster, UnsupportedImagery, choose,
)
from sat2dem_core.paths import downloads
from sat2dem_core.rasters.atomic import cannot_write, part_of
from sat2dem_core.rasters.download import (
    amount, ask, check_origin, check_room, fetch, free_space, origin, unpack,
)
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.names import name_fault
from sat2dem_core.rasters.reader import Raster, opened

SENSOR_FOLDERS = {"sentinel-2": "sentinel_images", "landsat": "landsat_images"}  # the authors' names
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")  # what is unpacked
OTHER_ARCHIVES = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")


def fetch_iberia(record: str = ZENODO, progress: bool = True) -> tuple[Path, str]:
    """Download and unpack the paper's data set as its Zenodo record lists it.

    The archives may have any names: what is in them decides. A folder that an earlier version of the record was
    unpacked to, and a disk with too little room, are noticed before the download begins.

    Args:
        record: address of the record in Zenodo's API.

    Returns:
        The folder of the files, and the license of the record.

    Raises:
        Unreachable, DamagedDownload, CannotWrite: see :mod:`sat2dem_core.rasters.download`.
    """
    folder = downloads("iberia")
    files, license = listing(record)
    unpacked = _unpacked_names([file["name"] for file in files])
    for file in files:
        if file["name"] in unpacked:
            check_origin(folder / unpacked[file["name"]], folder / file["name"], file["checksum"])
        elif file["name"].endswith(OTHER_ARCHIVES):
            warnings.warn(
                f"{record} lists {file['name']}, which this program cannot unpack: unpack it in {folder} yourself if "
                "tiles are missing", stacklevel=2,
            )
    _announce(folder, files, unpacked, progress)
    for file in files:
        path = fetch(file["url"], folder / file["name"], file["checksum"], size=file["size"], progress=progress)
        if file["name"] in unpacked:
            unpack(path, folder / unpacked[file["name"]], file["checksum"])
    return folder, license


def _unpacked_names(names: list[str]) -> dict[str, str]:
    """For each archive the name of the folder that it is unpacked to: up to its first dot, if that is unique."""
    archives = [name for name in names if name.endswith(ARCHIVES)]
    short = {name: str(Path(name).with_name(Path(name).name.split(".")[0])) for name in archives}
    count = Counter(short.values())
    return {name: short[name] if count[short[name]] == 1 else f"{name}-unpacked" for name in archives}


def _announce(folder: Path, files: list[dict], unpacked: dict[str, str], progress: bool) -> None:
    """Print how much is still to download and to unpack, if anything is.

    Raises:
        CannotWrite: the disk has less room. Unpacked, an archive is at least as large as it was.
    """
    sizes = {file["name"]: file["size"] for file in files}
    missing = {name: size for name, size in sizes.items() if not (folder / name).exists()}
    parts = [part_of(folder / name) for name in missing]
    to_download = max(sum(missing.values()) - sum(part.stat().st_size for part in parts if part.exists()), 0)
    to_unpack = sum(sizes[name] for name, target in unpacked.items() if not (folder / target).exists())
    needed = to_download + to_unpack
    check_room(folder, needed, f"the data set ({amount(to_download)} to download, the rest to unpack)")
    if needed and progress:
        free = free_space(folder)
        place = f"{folder}, where {amount(free)} are free" if free is not None else folder
        text = f"{amount(to_download)} to download, and at least {amount(to_unpack)} to unpack, in {place}"
        tqdm.write(text, file=sys.stderr)


def listing(record: str) -> tuple[list[dict], str]:
    """The files and the license of a Zenodo record as its API lists them.

    Returns:
        For each file ``name``, ``size`` in bytes, ``checksum`` and ``url``; and the license.

    Raises:
        Unreachable: there is no answer, or not that of a Zenodo record, or the name of a file leads elsewhere.
    """
    response = ask(record)
    try:
        content = response.json()
        files = [_entry(file) for file in content["files"]]
        license = str(content.get("metadata", {}).get("license", {}).get("id", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(
            f"{record} does not list files as a Zenodo record does ({error!r}): check the address"
        ) from error
    if not files:
        raise Unreachable(f"{record} lists no files: is the record open?")
    for file in files:
        fault = name_fault(file["name"]) or "begins with a dot" * Path(file["name"]).name.startswith(".")
        if fault:
            raise Unreachable(f"{record} lists a file {file['name']!r}, whose name {fault}: do not trust the record")
    return files, license


def _entry(file: dict) -> dict:
    """What is used of a record's entry for a file.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it lacks something, or its size or checksum are none.
    """
    name, size, checksum, url = str(file["key"]), file["size"], file["checksum"], str(file["links"]["self"])
    if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
        raise ValueError(f"{checksum!r} is no checksum")
    if type(size) is not int or size < 0:
        raise ValueError(f"{size!r} is no size")
    return {"name": name, "size": size, "checksum": checksum, "url": url}


def export_folders(path: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Write a store as the paper's folders: elevation, Global-normalized elevation and images, paired by number.

    The number is the tile's position in the store; ``tiles.csv`` lists the tile's name for each. The folder appears
    when everything is written.

    Raises:
        DamagedStore: see :func:`sat2dem_core.dataset.store.open_store`.
        CannotWrite: the folder exists, or the disk is full; no part of the folder is left.
    """
    dataset, folder = open_store(path), Path(folder)
    if folder.exists():
        raise CannotWrite(f"{folder} exists: remove it or choose another")
    temporary = part_of(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _export(dataset, temporary)
        temporary.replace(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _export(dataset: xr.Dataset, folder: Path) -> None:
    images = SENSOR_FOLDERS[dataset.attrs["sensor"]]
    for name in ("original_dem", "normalized_dem", images):
        (folder / name).mkdir(parents=True)
    low, high = elevation_range(dataset)
    scale = Normalization("global", low, high, relief=high - low)
    tiles = tqdm(one_by_one(dataset), total=dataset.sizes["tile"], desc="exporting", unit="tile")
    for number, tile in enumerate(tiles):
        dem = tile.dem.values[None]
        normalized = scale.forward(torch.from_numpy(dem))[0].numpy()
        _write_tif(folder / "original_dem" / f"original_DEM_cell_{number}.tif", dem, tile)
        _write_tif(folder / "normalized_dem" / f"normalized_DEM_cell_{number}.tif", normalized, tile)
        _write_tif(folder / images / f"{images.removesuffix('_images')}_cell_{number}.tif", tile.rgb.values, tile)
    lines = [f"{number},{name}" for number, name in enumerate(dataset.tile.values)]
    (folder / "tiles.csv").write_text("\n".join(["number,tile", *lines]) + "\n", encoding="utf-8")


def import_folders(
    folder: str | os.PathLike, path: str | os.PathLike, sensor: str = "sentinel-2", *, license: str = "",
    progress: bool = True,
) -> Path:
    """Make a store from the paper's folders, wherever they lie under ``folder``.

    Elevation is ``original_DEM_cell_<i>.tif``, images lie in a folder named after the sensor, and both are paired by
    the number after the last underscore, never by position. NaN stays NaN (the authors set it to 0 m). The store keeps
    the checksums of the archives that the files were unpacked from, where their folders tell them.

    Raises:
        UnknownName: no such sensor.
        DamagedStore: an image has no DEM or a DEM no image, a number occurs twice, or a file is no tile; the message
            names the files. Or the store exists, and was made from another version of the data set.
    """
    folder, path = Path(folder), Path(path)
    images, dems = _pairs(folder, SENSOR_FOLDERS[choose("sensor", sensor, SENSOR_FOLDERS)])
    table = folder / "tiles.csv"
    names = _names(table)
    jobs = {names.get(str(number), f"cell_{number:05d}"): (images[number], dems[number]) for number in sorted(dems)}
    if len(jobs) < len(dems):
        raise DamagedStore(f"{table} names a tile twice: give each number a tile of its own")
    attrs, request = {"sensor": sensor, "license": license}, {"folder": folder.name, "sensor": sensor}
    if archives := _archives(folder, [*images.values(), *dems.values()]):
        request["archives"] = " ".join(archives)  # otherwise left out, so that stores of earlier versions are known
    return assemble(path, jobs, _read_pair, request, attrs, progress=progress)


def _archives(folder: Path, files: list[Path]) -> list[str]:
    """The checksums of the archives that files in a folder were unpacked from."""
    parents = {parent for file in files for parent in file.parents if parent.is_relative_to(folder)}
    return sorted({origin(parent) for parent in parents} - {""})


def _pairs(folder: Path, kind: str) -> tuple[dict[int, Path], dict[int, Path]]:
    """The images, which lie in a folder like ``kind``, and the DEMs, both by number and with the same numbers."""
    dems = _by_number(folder.rglob("original_DEM_cell_*.tif"))
    sensor = kind.split("_")[0]
    images = _by_number(
        file for file in folder.rglob("*.tif")
        if sensor in file.parent.name.lower() and not file.name.startswith(".")  # macOS adds ._<name> to zips
    )
    if not dems or not images:
        raise DamagedStore(
            f"{folder} holds {len(dems)} original_DEM_cell_<i>.tif and {len(images)} images in a folder named {kind}: "
            "check the path"
        )
    for files, partners, lacking in ((images, dems, "DEM"), (dems, images, "image")):
        if lonely := sorted(files.keys() - partners.keys()):
            some = ", ".join(files[number].name for number in lonely[:5])
            raise DamagedStore(
                f"{folder}: {len(lonely)} files have no {lacking} of their number ({some}, …): add it, or remove them"
            )
    return images, dems


def _by_number(files: Iterable[Path]) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for file in sorted(files):
        match = re.search(r"_(\d+)$", file.stem)
        if match is None:
            raise DamagedStore(f"{file} has no number after its last underscore to pair it by: name it …_<i>.tif")
        if (number := int(match[1])) in numbered:
            raise DamagedStore(f"{numbered[number]} and {file} have the same number: keep one of them")
        numbered[number] = file
    return numbered


def _names(table: Path) -> dict[str, str]:
    """Names of the tiles by number as an export lists them; none if there is no list."""
    if not table.is_file():
        return {}
    try:
        names = dict(line.split(",") for line in table.read_text(encoding="utf-8").splitlines()[1:])
    except ValueError as error:
        raise DamagedStore(
            f"{table} does not list a number and a name in each line ({error}): correct or remove it"
        ) from error
    for number, name in names.items():
        fault = name_fault(name) or "names a folder" * ("/" in name)
        if fault:
            raise DamagedStore(f"{table} gives tile {number} the name {name!r}, which {fault}: correct or remove it")
    return names


def _read_pair(pair: tuple[Path, Path]) -> xr.Dataset:
    """A tile from the files of its image and its DEM."""
    image, dem = pair
    try:
        with opened(image) as file:
            raster = Raster.of(file, image, range(1, file.count + 1), "declared")
        rgb, valid = raster.read(0, 0, *raster.grid.shape)
        heights = open_elevation(dem, placed=False, looks_for_fill=False)
        elevation = heights.read(0, 0, *heights.grid.shape)
        with opened(dem) as file:
            crs, transform = file.crs, file.transform
    except (UnreadableRaster, NoElevation, UnsupportedImagery) as error:
        raise DamagedStore(str(error)) from error
    _check_tile(image, rgb, 3)
    _check_tile(dem, elevation[None], 1)
    if rgb.dtype != np.uint8:
        raise DamagedStore(f"{image} holds {rgb.dtype}, not uint8: it is no image of this layout")
    elevation[~valid] = np.nan  # no image, so no pair
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), elevation)})
    scene.attrs = {
        "crs": crs.to_string() if crs else "", "left": transform.c, "top": transform.f,
        "nodata_share": float(np.isnan(elevation).mean()),
    }
    return scene


def _check_tile(file: Path, values: np.ndarray, bands: int) -> None:
    if values.shape != (bands, PIXELS, PIXELS):
        raise DamagedStore(
            f"{file} has shape {values.shape}, not {(bands, PIXELS, PIXELS)}: it is no tile of this layout"
        )


def _write_tif(file: Path, array: np.ndarray, tile: xr.Dataset) -> None:
    transform = from_origin(tile.left.item(), tile.top.item(), RESOLUTION, RESOLUTION)
    nodata = None if array.dtype == np.uint8 else np.nan
    with MemoryFile() as memory:  # GDAL may miss that a disk is full, Python does not
        with memory.open(
            driver="GTiff", count=len(array), height=PIXELS, width=PIXELS, dtype=array.dtype, compress="deflate",
            crs=str(tile.crs.item()), transform=transform, nodata=nodata,
        ) as target:
            target.write(array)
        file.write_bytes(memory.read())
