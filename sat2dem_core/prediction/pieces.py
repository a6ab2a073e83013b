"""The pieces of a prediction, each a function of the plan and a number, so that any process can do any piece at any time.

What a piece makes lies in the plan's folder; what it returns is small. See :mod:`sat2dem_core.prediction.pipeline` for the order.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from sat2dem_core.errors import InvalidConfig, UnsupportedImagery
from sat2dem_core.prediction.mosaic import Blend, solve_levels, step_between, window
from sat2dem_core.prediction.weights import Weights, load_weights
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.reader import Image

ROWS = 256  # of a block, and of a chunk of the arrays
MIN_VALID_SHARE = 0.25  # share of a tile that must show something for it to be predicted


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


@lru_cache(maxsize=4)
def _models(sources: tuple[str, ...], checksums: tuple[str, ...]) -> list[Weights]:
    members = [load_weights(source) for source in sources]
    for source, member, checksum in zip(sources, members, checksums):
        if member.sha256 != checksum:
            raise InvalidConfig(f"{source} changed while it was in use, or is another file on a worker: start again")
    return members


def predict_strip(plan: Plan, number: int) -> dict[str, Any]:
    """Predict a row of tiles."""
    members, size = _models(plan.weights, plan.checksums), plan.tile
    rgb, seen = plan.image.read(plan.rows[number], 0, size, plan.image.width)
    present = np.array([seen[:, at : at + size].mean() >= MIN_VALID_SHARE for at in plan.columns])
    heights = np.full((len(plan.columns), size, size), np.nan, np.float32)
    spread, distance = np.zeros_like(heights), np.zeros(len(heights))
    for part in np.split(np.flatnonzero(present), range(plan.batch, int(present.sum()), plan.batch)):
        if len(part):
            windows = [slice(plan.columns[i], plan.columns[i] + size) for i in part]
            tiles = np.stack([_filled(rgb[:, :, at], seen[:, at]) for at in windows])
            mask = np.stack([seen[:, at] for at in windows])
            heights[part], spread[part] = _ensemble(members, np.flip(tiles, plan.mirrored), plan.mirrored, mask)
            distance[part] = members[0].domain.distance(tiles)
    file = plan.strip(number)
    with replacing(file) as beside, beside.open("wb") as stream:
        np.savez(stream, heights=heights, spread=spread, distance=distance, present=present)
    neighbors = zip(heights, heights[1:], plan.columns, plan.columns[1:])
    steps = [_step(plan, a, b, (0, left), (0, right)) for a, b, left, right in neighbors]
    return {"steps": steps, "present": present.tolist(), "distances": distance[present].tolist()}


def _filled(rgb: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A tile with its mean color where there is no image: the network then sees no edge brighter than need be."""
    return rgb if seen.all() else np.where(seen, rgb, rgb[:, seen].mean(1).astype(np.uint8)[:, None, None])


def _ensemble(members: list[Weights], tiles: np.ndarray, mirrored: tuple[int, ...], seen: np.ndarray) -> tuple[np.ndarray, ...]:
    """What all members say of tiles (N, 3, T, T) whose sun stands in the south-east: mean and standard deviation, in place.

    Each member sees the tile and its mirror image about the diagonal, which leaves the sun in the south-east.
    """
    answers = []
    for member in members:
        scale = member.model.normalization
        for turned in (False, True):
            seen_by = tiles.swapaxes(2, 3) if turned else tiles
            out = member.model.predict(np.ascontiguousarray(seen_by), len(seen_by))
            meters = (scale.height_above_minimum(out) if member.relative else scale.inverse(out)).numpy()
            answers.append(np.flip(meters.swapaxes(1, 2) if turned else meters, mirrored))
    stack = np.where(seen, np.stack(answers), np.nan)  # (members, N, T, T)
    # In relief each answer has a level of its own.
    middle = np.nanmean(stack, (2, 3), keepdims=True) if members[0].relative else np.zeros((1, 1, 1, 1))
    return (stack - middle).mean(0) + middle.mean(0), (stack - middle).std(0)


def _step(plan: Plan, a: np.ndarray, b: np.ndarray, at: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """By how much one tile stands above another, from their corners; see :func:`sat2dem_core.prediction.mosaic.step_between`."""
    down, right, size = other[0] - at[0], other[1] - at[1], plan.tile
    if down >= size or right >= size:
        return 0.0, 0.0
    weight = window(size)
    here, there = (slice(down, None), slice(right, None)), (slice(None, size - down), slice(None, size - right))
    return step_between(a[here], b[there], weight[here] * weight[there])


def measure_joint(plan: Plan, number: int) -> dict[str, Any]:
    """The steps from a strip down to the next."""
    a, b = (np.load(plan.strip(number + i))["heights"] for i in (0, 1))
    at, other = (plan.rows[number], 0), (plan.rows[number + 1], 0)
    return {"steps": [_step(plan, *pair, at, other) for pair in zip(a, b)]}


def find_levels(plan: Plan, strips: list[dict], joints: list[dict], weights: Weights) -> tuple[np.ndarray, int]:
    """The level of each tile, (rows, columns) meters, and how many groups of connected tiles there are."""
    across, down = len(plan.columns), len(plan.rows)
    present = np.array([strip["present"] for strip in strips])  # (rows, columns)
    if not present.any():
        raise UnsupportedImagery(f"{plan.image.path} shows nothing in a whole tile: give an image with less nodata")
    number = np.arange(down * across).reshape(down, across)
    beside, below = (number[:, :-1], number[:, 1:]), (number[:-1], number[1:])
    pairs = np.concatenate([np.stack(part, -1).reshape(-1, 2) for part in (beside, below)])
    told = [step for part in (*strips, *joints) for step in part["steps"]]
    steps, weight = np.array(told).reshape(-1, 2).T
    met = weight > 0
    levels, groups = solve_levels(down * across, pairs[met], steps[met], weight[met])
    count = len(np.unique(groups[present.ravel()]))
    if not weights.relative:
        return np.zeros((down, across)), 1
    if count > 1:
        cause = "nodata parts" if met.any() else "tiles that do not overlap part"
        warnings.warn(
            f"{cause} {plan.image.path} into {count} areas: relative heights of one say nothing about those of another",
            stacklevel=3,
        )
    return levels.reshape(down, across), count


def blend_block(plan: Plan, number: int, levels: np.ndarray) -> dict[str, Any]:
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
    for name, values in zip(cog.BANDS, (elevation, interval, distance)):
        store[name][top : top + height] = values
    known = np.isfinite(elevation)
    low = float(elevation[known].min()) if known.any() else np.inf
    return {"low": low, "pixels": int(known.sum()), "outside": int((distance[known] > 1).sum())}
