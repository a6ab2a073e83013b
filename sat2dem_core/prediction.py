"""Elevation for an image of any size, in steps that can be interrupted, repeated and spread over a cluster.

1. Strips: a row of overlapping tiles at a time goes through the network, and lands in a file.
2. Joints: how far each strip's tiles stand above those of the next; with the steps within strips, the levels of all tiles
   follow (:mod:`sat2dem_core.mosaic`).
3. Blocks: some rows at a time, tiles are faded into one surface, in a Zarr array.
4. The surface is tied to known heights, where there are any (:mod:`sat2dem_core.anchors`), and written.

What a step has made lies in a folder beside the result until the end, so that the same command goes on from there. Memory
holds a strip or a block, never the scene.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from tqdm import tqdm

from sat2dem_core import rasters
from sat2dem_core.anchors import Fit, fit_anchors
from sat2dem_core.errors import InvalidConfig, NoTiles, OutputExists, UnsupportedImagery
from sat2dem_core.files import cannot_write, replacing
from sat2dem_core.imagery import Image, open_image
from sat2dem_core.mosaic import Blend, solve_levels, starts, step_between, window
from sat2dem_core.weights import DEFAULT, Weights, load_weights

ROWS = 256  # of a block, and of a chunk of the arrays
SEEN = 0.25  # share of a tile that must show something for it to be predicted


@dataclass(frozen=True)
class Plan:
    """What a worker must know: the image and its grid, the weights, where tiles begin, and where results collect."""

    image: Image
    weights: tuple[str, ...]
    checksums: tuple[str, ...]
    mirrored: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    tile: int
    batch: int
    folder: str

    @property
    def blocks(self) -> int:
        return -(-self.image.height // ROWS)

    def strip(self, number: int) -> Path:
        return Path(self.folder) / f"strip-{number:05d}.npz"


@dataclass(frozen=True)
class Prediction:
    """What came of a prediction.

    Attributes:
        path: of the DEM.
        tags: what the file says about itself.
        anchors: one row an anchor with its residual after the fit, meters; None without anchors.
        groups: of connected tiles; more than one where nodata parts the image, and then relative heights of one say
            nothing about those of another.
        outside: share of the predicted pixels outside of what the model was trained on.
    """

    path: Path
    tags: dict[str, str]
    anchors: pd.DataFrame | None
    groups: int
    outside: float


def predict(
    image: str | os.PathLike, out: str | os.PathLike, weights: str | os.PathLike | Sequence[str | os.PathLike] = DEFAULT, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    nodata: float | str | None = "declared", gsd: float | None = None, sun: float | None = None,
    anchors: str | os.PathLike | None = None, surface: str | None = None, overlap: float = 0.5, batch: int = 32,
    caution: bool = True, overwrite: bool = False, client: Any = None, progress: bool = True,
) -> Prediction:
    """Predict the elevation of an image, and write it as a Cloud-Optimized GeoTIFF or a Zarr store.

    The result has three bands in float32: elevation in meters; half the width of the interval that held the truth in
    90 % of the pixels of ground that the weights had not seen; and how far the image is from what they were trained on,
    where more than 1 is outside. With weights that predict relief, elevation is relative (meters above the lowest point)
    unless ``anchors`` tie it to the Earth, and the interval is of the height about its surroundings, a tile wide.

    Args:
        image: any raster that GDAL reads; see :func:`sat2dem_core.imagery.open_image` for it and for ``bands``, ``stretch``,
            ``nodata`` and ``gsd``.
        out: the file to write: ``….tif``, or ``….zarr``.
        weights: see :func:`sat2dem_core.weights.load_weights`; several are an ensemble.
        sun: azimuth when the image was taken, degrees clockwise from north. Without it, south-east on the northern
            hemisphere and north-east on the southern, where it stands in the morning.
        anchors, surface: see :func:`sat2dem_core.anchors.fit_anchors`.
        overlap: of neighboring tiles, as a share of their side.
        batch: tiles at once; the result does not depend on it.
        caution: lower relief as a whole where the image as a whole is outside of what the model knows, by as much as it
            is: a model knows nothing of how rugged foreign ground is.
        overwrite: replace what stands at ``out``.
        client: a dask client, on whose workers strips and blocks are then made; they must see one file system.
        progress: show progress bars.

    Raises:
        OutputExists: something stands at ``out``.
        NoTiles: the image is smaller than a tile.
        CannotWrite: the disk is full, say; the same command goes on from there.
        UnreadableRaster, MissingCRS, UnsupportedImagery, UnknownName, InvalidAnchors: see the functions named above.
    """
    out = Path(out)
    if out.suffix not in (".tif", ".tiff", ".zarr"):
        raise InvalidConfig(f"{out} is neither a GeoTIFF nor a Zarr store: give a name that ends in .tif or .zarr")
    if out.exists() and not overwrite:
        raise OutputExists(f"{out} exists: give another name, or --overwrite to replace it")
    if not 0 <= overlap < 0.9:
        raise InvalidConfig(f"overlap is {overlap}: give a share of a tile's side from 0 to below 0.9")
    sources = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    members = [load_weights(source) for source in sources]
    first = _alike(members, sources)
    picture = open_image(image, *first.gsd, bands=bands, stretch=stretch, nodata=nodata, gsd=gsd)
    plan = _plan(picture, members, sources, sun, overlap, batch, out)
    with _folder(plan) as folder:
        strips = _stage("strip", _strip, plan, range(len(plan.rows)), client, progress)
        levels, groups = _levels(plan, strips, _stage("joint", _joint, plan, range(len(plan.rows) - 1), client, progress), first)
        rasters.scratch(folder / "mosaic.zarr", plan.image, ROWS)
        blocks = _stage("block", _block, plan, range(plan.blocks), client, progress, levels)
        distance = float(np.median(np.concatenate([strip["distances"] for strip in strips])))
        factor = first.unit(plan.image.gsd) if first.relative else 1.0
        amplitude = factor / max(1.0, distance if caution and first.relative else 1.0)
        if amplitude < factor:
            warnings.warn(
                f"{image} is unlike what the model was trained on (its distance is {distance:.2g}, more than 1 is outside): relief is "
                f"lowered to {amplitude / factor:.0%}, as the model cannot know how rugged such ground is; --no-caution leaves it",
                stacklevel=2,
            )
        fit = fit_anchors(anchors, surface, folder / "mosaic.zarr", plan.image, amplitude) if anchors is not None else None
        low = min(block["low"] for block in blocks) * amplitude if first.relative else 0.0
        fit = fit or Fit.level(-low)
        pixels, outside = (sum(block[name] for block in blocks) for name in ("pixels", "outside"))
        tags = _tags(plan, members, first, fit, anchors, amplitude / factor)
        finish = _Finish(str(folder / "mosaic.zarr"), amplitude, factor, fit)
        write = rasters.write_zarr if out.suffix == ".zarr" else rasters.write_cog
        write(out, plan.image, finish, tags, ROWS, client, progress)
    return Prediction(out, tags, fit.table, groups, outside / pixels)


def _alike(members: list[Weights], sources: list) -> Weights:
    """The first of an ensemble, whose members must answer the same question."""
    first = members[0]
    for member, source in zip(members[1:], sources[1:]):
        if (member.model.config.tile, member.gsd, member.hurst, member.relative) != (
            first.model.config.tile, first.gsd, first.hurst, first.relative
        ):
            raise InvalidConfig(
                f"{source} and {sources[0]} differ in tile, ground sampling distance or normalization: an ensemble needs weights "
                "that differ in their seed alone"
            )
    return first


def _plan(
    picture: Image, members: list[Weights], sources: list, sun: float | None, overlap: float, batch: int, out: Path
) -> Plan:
    size = members[0].model.config.tile
    if min(picture.height, picture.width) < size:
        raise NoTiles(
            f"{picture.path} is {picture.height} x {picture.width} px at {picture.gsd:.3g} m, smaller than one tile of {size} x {size} px "
            f"({size * picture.gsd / 1000:.3g} km): give a larger image"
        )
    if sun is None:
        sun = 45.0 if (picture.latitude or 0) < 0 else 135.0
    azimuth = sun % 360
    # The sun of the training images stands in the south-east; another is brought there by mirroring the tile.
    mirrored = tuple(axis for axis, wrong in ((-2, azimuth < 90 or azimuth > 270), (-1, azimuth > 180)) if wrong)
    stride = max(1, round(size * (1 - overlap)))
    rows, columns = (tuple(starts(side, size, stride)) for side in (picture.height, picture.width))
    folder = out.with_name(f".{out.name}.parts")
    checksums = tuple(member.sha256 for member in members)
    return Plan(picture, tuple(map(str, sources)), checksums, mirrored, rows, columns, size, batch, str(folder))


class _folder:
    """The folder beside the result where parts collect: kept when interrupted, removed at the end.

    It is emptied where it holds parts of another prediction.
    """

    def __init__(self, plan: Plan):
        source = Path(plan.image.path).stat()
        told = asdict(plan) | {"batch": None, "size": source.st_size, "changed": source.st_mtime_ns}
        self.path, self.key = Path(plan.folder), json.dumps(told, sort_keys=True, default=str)

    def __enter__(self) -> Path:
        file = self.path / "plan.json"
        if self.path.exists() and (not file.exists() or file.read_text() != self.key):
            shutil.rmtree(self.path)
        if not file.exists():
            with replacing(file) as beside:
                beside.write_text(self.key)
        return self.path

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif isinstance(error, OSError):
            raise cannot_write(self.path, error) from error


def _stage(
    name: str, work: Callable, plan: Plan, numbers: Sequence[int], client: Any, progress: bool, *more: Any
) -> list[dict[str, Any]]:
    """Do what is not done yet, here or on a cluster, and collect what each piece tells."""
    files = [Path(plan.folder) / f"{name}-{number:05d}.json" for number in numbers]
    missing = [number for number, file in zip(numbers, files) if not file.exists()]
    if client is None:
        done = ((number, work(plan, number, *more)) for number in missing)
    else:
        from dask.distributed import as_completed

        shared = client.scatter(more, broadcast=True) if more else ()
        futures = {client.submit(work, plan, number, *shared, pure=False): number for number in missing}
        done = ((futures[future], future.result()) for future in as_completed(futures))
    bar = {"total": len(files), "initial": len(files) - len(missing), "desc": f"{name}s", "disable": not progress}
    for number, told in tqdm(done, **bar):
        with replacing(Path(plan.folder) / f"{name}-{number:05d}.json") as beside:
            beside.write_text(json.dumps(told))
    return [json.loads(file.read_text()) for file in files]


@lru_cache(maxsize=4)
def _models(sources: tuple[str, ...], checksums: tuple[str, ...]) -> list[Weights]:
    members = [load_weights(source) for source in sources]
    for source, member, checksum in zip(sources, members, checksums):
        if member.sha256 != checksum:
            raise InvalidConfig(f"{source} changed while it was in use, or is another file on a worker: start again")
    return members


def _strip(plan: Plan, number: int) -> dict[str, Any]:
    """Predict a row of tiles."""
    members, size = _models(plan.weights, plan.checksums), plan.tile
    rgb, seen = plan.image.read(plan.rows[number], 0, size, plan.image.width)
    shown = [seen[:, at : at + size] for at in plan.columns]
    present = np.array([part.mean() >= SEEN for part in shown])
    heights = np.full((len(plan.columns), size, size), np.nan, np.float32)
    spread, distance = np.zeros_like(heights), np.zeros(len(heights))
    if present.any():
        tiles = np.stack([_filled(rgb[:, :, at : at + size], part) for at, part, ok in zip(plan.columns, shown, present) if ok])
        mask = np.stack([part for part, ok in zip(shown, present) if ok])
        heights[present], spread[present] = _ensemble(members, np.flip(tiles, plan.mirrored), plan.batch, plan.mirrored, mask)
        distance[present] = members[0].domain.distance(tiles)
    file = plan.strip(number)
    with replacing(file) as beside, beside.open("wb") as stream:
        np.savez(stream, heights=heights, spread=spread, distance=distance, present=present)
    steps = [_step(plan, a, b, (0, left), (0, right)) for a, b, left, right in zip(heights, heights[1:], plan.columns, plan.columns[1:])]
    return {"steps": steps, "present": present.tolist(), "distances": distance[present].tolist()}


def _filled(rgb: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A tile with its mean color where there is no image: the network then sees no edge brighter than need be."""
    return rgb if seen.all() else np.where(seen, rgb, rgb[:, seen].mean(1).astype(np.uint8)[:, None, None])


def _ensemble(members: list[Weights], tiles: np.ndarray, batch: int, mirrored: tuple[int, ...], seen: np.ndarray):
    """What all members say of tiles (N, 3, T, T) whose sun stands in the south-east: mean and standard deviation, in place.

    Each member sees the tile and its mirror image about the diagonal, which leaves the sun in the south-east.
    """
    answers = []
    for member in members:
        scale = member.model.normalization
        for turned in (False, True):
            seen_by = tiles.swapaxes(2, 3) if turned else tiles
            out = member.model.predict(np.ascontiguousarray(seen_by), batch)
            meters = (scale.height_above_minimum(out) if member.relative else scale.inverse(out)).numpy()
            answers.append(np.flip(meters.swapaxes(1, 2) if turned else meters, mirrored))
    stack = np.where(seen, np.stack(answers), np.nan)  # (members, N, T, T)
    middle = np.nanmean(stack, (2, 3), keepdims=True) if members[0].relative else 0.0  # each has a level of its own
    mean = (stack - middle).mean(0)
    return mean + np.mean(middle, 0), (stack - middle).std(0)


def _step(plan: Plan, a: np.ndarray, b: np.ndarray, at: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """By how much one tile stands above another, from their corners; see :func:`sat2dem_core.mosaic.step_between`."""
    down, right, size = other[0] - at[0], other[1] - at[1], plan.tile
    if down >= size or right >= size:
        return 0.0, 0.0
    weight = window(size)
    here, there = (slice(down, None), slice(right, None)), (slice(None, size - down), slice(None, size - right))
    return step_between(a[here], b[there], weight[here] * weight[there])


def _joint(plan: Plan, number: int) -> dict[str, Any]:
    """The steps from a strip down to the next."""
    a, b = (np.load(plan.strip(number + i))["heights"] for i in (0, 1))
    at, other = (plan.rows[number], 0), (plan.rows[number + 1], 0)
    return {"steps": [_step(plan, *pair, at, other) for pair in zip(a, b)]}


def _levels(plan: Plan, strips: list[dict], joints: list[dict], weights: Weights) -> tuple[np.ndarray, int]:
    """The level of each tile, (rows, columns) meters, and how many groups of connected tiles there are."""
    across, down = len(plan.columns), len(plan.rows)
    present = np.array([strip["present"] for strip in strips])  # (rows, columns)
    if not present.any():
        raise UnsupportedImagery(f"{plan.image.path} shows nothing in a whole tile: give an image with less nodata")
    number = np.arange(down * across).reshape(down, across)
    pairs = np.concatenate([np.stack([number[:, :-1], number[:, 1:]], -1).reshape(-1, 2), np.stack([number[:-1], number[1:]], -1).reshape(-1, 2)])
    told = [step for part in (*strips, *joints) for step in part["steps"]]
    steps, weight = np.array(told).reshape(-1, 2).T
    met = weight > 0
    levels, groups = solve_levels(down * across, pairs[met], steps[met], weight[met])
    count = len(np.unique(groups[present.ravel()]))
    if not weights.relative:
        return np.zeros((down, across)), 1
    if count > 1:
        warnings.warn(
            f"nodata parts {plan.image.path} into {count} areas: relative heights of one say nothing about those of another", stacklevel=3
        )
    return levels.reshape(down, across), count


def _block(plan: Plan, number: int, levels: np.ndarray) -> dict[str, Any]:
    """Fade tiles into some rows of the mosaic."""
    top = number * ROWS
    height = min(ROWS, plan.image.height - top)
    blend = Blend(height, plan.image.width, plan.tile)
    for strip, row in enumerate(plan.rows):
        if row + plan.tile <= top or row >= top + height:
            continue
        with np.load(plan.strip(strip)) as file:
            heights, spread, distance, present = (file[name] for name in ("heights", "spread", "distance", "present"))
        for tile in np.flatnonzero(present):
            blend.add(heights[tile] + levels[strip, tile], spread[tile], distance[tile], row - top, plan.columns[tile])
    elevation, spread, distance = blend.result()
    interval = _models(plan.weights, plan.checksums)[0].interval.half_width(spread)
    store = zarr.open_group(Path(plan.folder) / "mosaic.zarr", mode="r+")
    for name, values in zip(rasters.BANDS, (elevation, interval, distance)):
        store[name][top : top + height] = values
    known = np.isfinite(elevation)
    low = float(elevation[known].min()) if known.any() else np.inf
    return {"low": low, "pixels": int(known.sum()), "outside": int((distance[known] > 1).sum())}


@dataclass(frozen=True)
class _Finish:
    """The last step: some rows of the mosaic in meters on the Earth, (3, rows, width) float32."""

    store: str
    amplitude: float
    factor: float
    fit: Fit

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        store = zarr.open_group(self.store, mode="r")
        elevation, interval, distance = (store[name][top:bottom] for name in rasters.BANDS)
        elevation = elevation * self.amplitude + self.fit.surface(top, bottom, elevation.shape[1])
        return np.stack([elevation, interval * self.factor, distance]).astype(np.float32)


def _tags(plan: Plan, members: list[Weights], first: Weights, fit: Fit, anchors, lowered: float) -> dict[str, str]:
    """What the file says about itself."""
    told = {
        "MODEL": ", ".join(str(member.card.get("name")) for member in members),
        "WEIGHTS_SHA256": ", ".join(member.sha256 for member in members),
        "TRAINING_DATA": str(first.card.get("data")), "DATE": pd.Timestamp.now("UTC").strftime("%Y-%m-%d"),
        "HEIGHTS": "absolute" if anchors is not None or not first.relative else "relative",
        "IMAGE": Path(plan.image.path).name, "BANDS_USED": ", ".join(map(str, plan.image.bands)),
        "GROUND_SAMPLING_DISTANCE": f"{plan.image.gsd:.6g} m", "INTERVAL": f"{first.interval.share:.0%}",
        "RELIEF_LOWERED_TO": f"{lowered:.0%}",
        "MIRRORED_FOR_SUN": {(): "no", (-2,): "up-down", (-1,): "left-right"}.get(plan.mirrored, "both ways"),
        "AREA_OR_POINT": "Area",
    }
    return told | (fit.tags() if anchors is not None else {})
