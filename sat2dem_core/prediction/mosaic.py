"""Overlapping tiles become one surface: consistent levels, and a blend without seams.

A network trained with Shift predicts the height of each pixel above the lowest point of its tile, so two overlapping
tiles differ by an unknown constant. The overlaps determine these constants: for each pair of tiles,
``level[b] - level[a]`` should equal the mean of ``a`` minus ``b`` over the pixels that both cover. All pairs together
form an overdetermined sparse system, solved by robust least squares (:mod:`sat2dem_core.prediction.robust`). The
differences that remain are blended from tile to tile.
"""

import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

from sat2dem_core.errors import NoTiles
from sat2dem_core.prediction.robust import robust_least_squares


def starts(length: int, size: int, stride: int) -> list[int]:
    """The first pixel of each tile of ``size`` px along a side: every ``stride`` px, the last tile flush with the end.

    Raises:
        NoTiles: the side is shorter than a tile.

    >>> starts(300, 128, 64)
    [0, 64, 128, 172]
    """
    if length < size:
        raise NoTiles(f"a side of {length} px is shorter than one tile of {size} px: give a larger image")
    return [*range(0, length - size, stride), length - size]


def window(size: int) -> np.ndarray:
    """Weights of a tile's pixels, (T, T) float32: a Hann window, largest in the middle and almost 0 at the edges.

    With a stride of half a tile, the weights of all tiles sum to the same value everywhere.
    """
    side = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(side, side).astype(np.float32)


def step_between(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The weighted mean of ``a`` minus ``b`` over the pixels known in both (not NaN), and the sum of their weights.

    Args:
        a, b: (h, w) heights of the pixels that two tiles share, meters.
        weight: (h, w) of each pixel.
    """
    known = ~(np.isnan(a) | np.isnan(b))
    total = float(weight[known].sum(dtype=np.float64))
    if total == 0:
        return 0.0, 0.0
    return float((weight[known] * (a[known] - b[known])).sum(dtype=np.float64)) / total, total


def solve_levels(
    count: int, pairs: np.ndarray, steps: np.ndarray, weights: np.ndarray, rounds: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Find the level of each tile that makes overlapping tiles agree best.

    Args:
        count: number of tiles.
        pairs: (M, 2) indices of two overlapping tiles, a and b.
        steps: (M,) mean of a minus b over their overlap, meters; see :func:`step_between`.
        weights: (M,) of each pair.
        rounds: of reweighting at most.

    Returns:
        (count,) meters to add to each tile, with mean zero over each group of connected tiles, and (count,) the index
        of its group. The step between two groups is unknown.
    """
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    links = coo_array((np.ones(len(pairs)), pairs.T), (count, count))
    groups = connected_components(links, directed=False)[1]
    if not len(pairs):
        return np.zeros(count), groups
    rows = np.repeat(np.arange(len(pairs)), 2)
    difference = coo_array((np.tile([-1.0, 1.0], len(pairs)), (rows, pairs.ravel())), (len(pairs), count)).tocsr()
    hold = np.zeros(count)  # one tile of each group is held near 0: the pairs alone leave the group's level open
    hold[np.unique(groups, return_index=True)[1]] = weights.mean()

    def solve(trust: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = difference.T @ diags_array(weights * trust) @ difference + diags_array(hold)
        levels = np.atleast_1d(spsolve(matrix.tocsc(), difference.T @ (weights * trust * steps)))
        return levels, difference @ levels - steps

    levels = robust_least_squares(solve, len(pairs), rounds, tolerance=1e-3)
    means = np.bincount(groups, levels) / np.bincount(groups)
    return levels - means[groups], groups


class Blend:
    """Weighted mean of overlapping tiles over some rows of a mosaic, and how far the tiles disagree.

    Args:
        height, width: of these rows, px.
        size: side of a tile, px.
    """

    def __init__(self, height: int, width: int, size: int):
        self.sums = np.zeros((4, height, width))  # of weights, heights, their squares, and the tiles' marks
        self.weight = window(size)

    def add(self, heights: np.ndarray, spread: np.ndarray, mark: float, row: int, column: int) -> None:
        """Add a tile whose upper left corner is at a row and column; parts outside the mosaic are cut off.

        Args:
            heights: (T, T) meters, NaN where unknown.
            spread: (T, T) standard deviation of the predictions that were averaged into the heights, meters.
            mark: a number that describes the tile, blended with the same weights as its heights.
        """
        size, (_, height, width) = len(self.weight), self.sums.shape
        top, bottom, left, right = max(row, 0), min(row + size, height), max(column, 0), min(column + size, width)
        if top >= bottom or left >= right:
            return
        part = slice(top - row, bottom - row), slice(left - column, right - column)
        values, deviation = heights[part].astype(np.float64), spread[part].astype(np.float64)
        weight = np.where(np.isnan(values), 0, self.weight[part])
        values, deviation = np.nan_to_num(values), np.nan_to_num(deviation)
        sums = self.sums[:, top:bottom, left:right]
        for total, term in zip(sums, (1.0, values, values**2 + deviation**2, mark)):
            total += weight * term

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights, the standard deviation of the tiles' predictions about them, and marks: (height, width) each.

        NaN where there is no tile.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, square, mark = self.sums[1:] / self.sums[0]
        return mean, np.sqrt(np.maximum(square - mean**2, 0)), mark
