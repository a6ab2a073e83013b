"""The pieces of a prediction: functions of the plan and an index, so that any process can compute any piece.

A piece writes its arrays into the plan's folder and returns a few numbers. :mod:`sat2dem_core.prediction.pipeline`
gives the order of the pieces.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

from sat2dem_core.errors import InvalidConfig, UnsupportedImagery
from sat2dem_core.prediction.mosaic import Blend, solve_levels, step_between, window
from sat2dem_core.prediction.weights import Weights, load_weights
from sat2dem_core.prediction.work import ROWS
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.imagery import Image

PACKING = Blosc("lz4", 5, Blosc.BITSHUFFLE)  # five times as fast as zstd, and nearly as small
MIN_VALID_SHARE = 0.25  # share of a tile's pixels that must be valid for the tile to be predicted


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to compute a piece.

    Attributes:
        image: with its grid.
        weights: where each member of the ensemble is loaded from.
        checksums: SHA-256 of each.
        mirrored: axes of a tile, -2 and -1, along which it is flipped to bring the sun to the south-east.
        rows, columns: the first row and the first column of the tiles, px.
        tile: side of a tile, px.
        batch: tiles that the network predicts at once.
        folder: of the intermediate results.
    """

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
        """Number of blocks of ``ROWS`` rows."""
        return -(-self.image.grid.height // ROWS)

    def strip(self, number: int) -> Path:
        """The file of a strip's predicted tiles."""
        return Path(self.folder) / f"strip-{number:05d}.npz"


def scratch_bytes(plan: Plan) -> int:
    """Disk space that intermediate results take at most, measured on real images, where floats shrink by a third."""
    tiles = len(plan.rows) * len(plan.columns) * plan.tile**2
    pixels = plan.image.grid.height * plan.image.grid.width
    return max(6 * tiles, 28 * pixels)


def remove_strips(plan: Plan, block: int) -> None:
    """Remove the strips that no block from this one on needs."""
    for number, row in enumerate(plan.rows):
        if row + plan.tile <= block * ROWS:
            plan.strip(number).unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _models(sources: tuple[str, ...], checksums: tuple[str, ...]) -> list[Weights]:
    members = [load_weights(source) for source in sources]
    for source, member, checksum in zip(sources, members, checksums):
        if member.sha256 != checksum:
            raise InvalidConfig(f"{source} changed during the prediction, or differs on a worker: start again")
    return members


def predict_strip(plan: Plan, number: int) -> dict[str, Any]:
    """Predict a row of tiles and save them.

    Returns:
        ``steps`` between neighboring tiles and their weights, see
        :func:`sat2dem_core.prediction.mosaic.step_between`; ``present``, which tiles have enough valid pixels; and
        ``distances`` of these from the training distribution.
    """
    size = plan.tile
    rgb, valid = plan.image.read(plan.rows[number], 0, size, plan.image.grid.width)
    present = np.array([valid[:, left : left + size].mean() >= MIN_VALID_SHARE for left in plan.columns])
    heights = np.full((len(plan.columns), size, size), np.nan, np.float32)
    spread, distance = np.zeros_like(heights), np.zeros(len(heights))
    for batch in np.split(np.flatnonzero(present), range(plan.batch, int(present.sum()), plan.batch)):
        if len(batch):
            windows = [slice(plan.columns[i], plan.columns[i] + size) for i in batch]
            tiles, mask = (np.stack([part[..., columns] for columns in windows]) for part in (rgb, valid))
            heights[batch], spread[batch], distance[batch] = predict_tiles(plan, tiles, mask)
    with replacing(plan.strip(number)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, heights=_packed(heights), spread=_packed(spread), distance=distance, present=present)
    neighbors = zip(heights, heights[1:], plan.columns, plan.columns[1:])
    steps = [_step(plan, a, b, (0, left), (0, right)) for a, b, left, right in neighbors]
    return {"steps": steps, "present": present.tolist(), "distances": distance[present].tolist()}


def predict_tiles(plan: Plan, rgb: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict a batch of tiles.

    Args:
        rgb, valid: (N, 3, T, T) uint8, and where they hold data, (N, T, T) bool.

    Returns:
        Heights and their spread, (N, T, T) meters, NaN where not ``valid``; and the tiles' distances from the training
        distribution, (N,).
    """
    members = _models(plan.weights, plan.checksums)
    tiles = np.stack([_filled(*tile) for tile in zip(rgb, valid)])
    heights, spread = _ensemble(members, np.flip(tiles, plan.mirrored), plan.mirrored, valid)
    return heights, spread, members[0].domain.distance(tiles)


def _filled(rgb: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A tile with invalid pixels in its mean color, so that the network sees no strong edge at the border of nodata."""
    return rgb if valid.all() else np.where(valid, rgb, rgb[:, valid].mean(1).astype(np.uint8)[:, None, None])


def _ensemble(
    members: list[Weights], tiles: np.ndarray, mirrored: tuple[int, ...], valid: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Mean and standard deviation of all members' predictions, (N, T, T) each, meters, NaN where not ``valid``.

    Each member predicts every tile and its mirror image about the diagonal, which leaves the sun in the south-east.

    Args:
        tiles: (N, 3, T, T) uint8, with the sun in the south-east.
        mirrored: axes along which the tiles were flipped for that; predictions are flipped back.
        valid: (N, T, T), of the tiles before they were flipped.
    """
    predictions = []
    for member in members:
        scale = member.model.normalization
        for transposed in (False, True):
            batch = tiles.swapaxes(2, 3) if transposed else tiles
            out = member.model.predict(np.ascontiguousarray(batch), len(batch))
            meters = (scale.height_above_minimum(out) if member.relative else scale.inverse(out)).numpy()
            predictions.append(np.flip(meters.swapaxes(1, 2) if transposed else meters, mirrored))
    stack = np.where(valid, np.stack(predictions), np.nan)  # (predictions, N, T, T)
    # Each prediction of relief has a level of its own.
    level = np.nanmean(stack, (2, 3), keepdims=True) if members[0].relative else np.zeros((1, 1, 1, 1))
    return (stack - level).mean(0) + level.mean(0), (stack - level).std(0)


def _step(
    plan: Plan, a: np.ndarray, b: np.ndarray, corner_a: tuple[int, int], corner_b: tuple[int, int]
) -> tuple[float, float]:
    """The step between two tiles and its weight; see :func:`sat2dem_core.prediction.mosaic.step_between`.

    Args:
        a, b: (T, T) heights, meters.
        corner_a, corner_b: row and column of their upper left pixels; that of ``b`` lies below or to the right.
    """
    down, right, size = corner_b[0] - corner_a[0], corner_b[1] - corner_a[1], plan.tile
    if down >= size or right >= size:
        return 0.0, 0.0
    weight = window(size)
    in_a, in_b = (slice(down, None), slice(right, None)), (slice(None, size - down), slice(None, size - right))
    return step_between(a[in_a], b[in_b], weight[in_a] * weight[in_b])


def _packed(values: np.ndarray) -> np.ndarray:
    """Floats as compressed bytes: strips are most of what a prediction keeps on disk."""
    return np.frombuffer(PACKING.encode(np.ascontiguousarray(values, np.float32)), np.uint8)


def _unpacked(packed: np.ndarray, plan: Plan) -> np.ndarray:
    """A strip's floats, (N, T, T)."""
    return np.frombuffer(PACKING.decode(packed), np.float32).reshape(len(plan.columns), plan.tile, plan.tile)


def measure_joint(plan: Plan, number: int) -> dict[str, Any]:
    """Measure the ``steps`` from the tiles of a strip to those below, in the next strip."""
    a, b = (_unpacked(np.load(plan.strip(number + i))["heights"], plan) for i in (0, 1))
    corner_a, corner_b = (plan.rows[number], 0), (plan.rows[number + 1], 0)
    return {"steps": [_step(plan, *pair, corner_a, corner_b) for pair in zip(a, b)]}


def find_levels(
    plan: Plan, strips: list[dict], joints: list[dict], weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Find the level of each tile, (rows, columns) meters, and its group of connected tiles, counted from 0.

    A tile that is not predicted has the group -1.

    Raises:
        UnsupportedImagery: no tile has enough valid pixels.
    """
    down, across = len(plan.rows), len(plan.columns)
    present = np.array([strip["present"] for strip in strips])  # (rows, columns)
    if not present.any():
        raise UnsupportedImagery(
            f"no tile of {plan.image.path} has enough valid pixels: give an image with less nodata"
        )
    index = np.arange(down * across).reshape(down, across)
    horizontal, vertical = (index[:, :-1], index[:, 1:]), (index[:-1], index[1:])
    pairs = np.concatenate([np.stack(neighbors, -1).reshape(-1, 2) for neighbors in (horizontal, vertical)])
    measured = [step for piece in (*strips, *joints) for step in piece["steps"]]
    steps, weight = np.array(measured).reshape(-1, 2).T
    overlapping = weight > 0
    levels, groups = solve_levels(down * across, pairs[overlapping], steps[overlapping], weight[overlapping])
    if not weights.relative:
        return np.zeros((down, across)), np.where(present, 0, -1)
    numbers = np.full(down * across, -1)
    numbers[present.ravel()] = np.unique(groups[present.ravel()], return_inverse=True)[1]
    count = numbers.max() + 1
    if count > 1:
        strides = [b - a for side in (plan.rows, plan.columns) for a, b in pairwise(side)]
        cause = "tiles without overlap divide" if max(strides) >= plan.tile else "nodata divides"
        warnings.warn(
            f"{cause} {plan.image.path} into {count} areas: the steps in height between them are unknown", stacklevel=4
        )
    return levels.reshape(down, across), numbers.reshape(down, across)


def blend_block(plan: Plan, number: int, levels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Blend the tiles into ``ROWS`` rows of the mosaic.

    Args:
        levels: (rows, columns) meters to add to each tile.
        groups: (rows, columns) of each tile. If there are several, the mosaic gets the group of each pixel, too.

    Returns:
        ``lows``, the lowest height of each group; the number of predicted ``pixels``; and how many of them are
        ``outside`` the training distribution.
    """
    top = number * ROWS
    height = min(ROWS, plan.image.grid.height - top)
    blend = Blend(height, plan.image.grid.width, plan.tile)
    labels = np.zeros((height, plan.image.grid.width), np.uint32)
    for strip, row in enumerate(plan.rows):
        if row + plan.tile <= top or row >= top + height:
            continue
        with np.load(plan.strip(strip)) as file:
            heights, spread = (_unpacked(file[name], plan) for name in ("heights", "spread"))
            distance, present = file["distance"], file["present"]
        for tile in np.flatnonzero(present):
            column = plan.columns[tile]
            blend.add(heights[tile] + levels[strip, tile], spread[tile], distance[tile], row - top, column)
            if groups[strip, tile]:
                first, last = max(row, top), min(row + plan.tile, top + height)
                part = labels[first - top : last - top, column : column + plan.tile]
                part[~np.isnan(heights[tile, first - row : last - row])] = groups[strip, tile]
    elevation, spread, distance = blend.result()
    interval = _models(plan.weights, plan.checksums)[0].interval.half_width(spread)
    store = zarr.open_group(Path(plan.folder) / "mosaic.zarr", mode="r+")
    for name, values in zip(cog.BANDS, (elevation, interval, distance)):
        store[name][top : top + height] = values
    count = groups.max() + 1
    if count > 1:
        store["group"][top : top + height] = labels
    known = np.isfinite(elevation)
    lows = np.full(count, np.inf)
    np.minimum.at(lows, labels[known], elevation[known])
    return {"lows": lows.tolist(), "pixels": int(known.sum()), "outside": int((distance[known] > 1).sum())}
