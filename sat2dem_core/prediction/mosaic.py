"""What makes overlapping predictions one surface: levels that agree, and a blend without seams.

A network trained with Shift says how high each pixel stands above its own tile's lowest point, so two overlapping tiles
differ by an unknown constant. The constants follow from the overlaps: each pair of tiles asks that
``level[b] - level[a]`` be the mean of what ``a`` says minus what ``b`` says on the ground they share. All pairs
together are an overdetermined sparse system, solved by least squares in which large residuals count less (Huber 1964,
doi 10.1214/aoms/1177703732). What then differs within an overlap is faded from tile to tile.
"""

import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

from sat2dem_core.errors import NoTiles


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where tiles of ``size`` px begin along a side: every ``stride`` px, the last one flush with the end.

    Raises:
        NoTiles: the side is shorter than a tile.

    >>> starts(300, 128, 64)
    [0, 64, 128, 172]
    """
    if length < size:
        raise NoTiles(f"{length} px are less than one tile of {size} px")
    return [*range(0, length - size, stride), length - size]


def window(size: int) -> np.ndarray:
    """Weights of a tile's pixels, (T, T): smooth, largest in its middle and next to nothing at its edge.

    Hann's window: at half a tile's stride the weights of all tiles sum to the same everywhere.
    """
    side = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(side, side).astype(np.float32)


def step_between(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """By how much ``a`` stands above ``b`` where both are known (NaN elsewhere), and the summed weight of that ground."""
    known = ~(np.isnan(a) | np.isnan(b))
    total = float(weight[known].sum(dtype=np.float64))
    if total == 0:
        return 0.0, 0.0
    return float((weight[known] * (a[known] - b[known])).sum(dtype=np.float64)) / total, total


def solve_levels(
    count: int, pairs: np.ndarray, steps: np.ndarray, weights: np.ndarray, rounds: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """The level of each tile, so that overlapping tiles agree as well as they can.

    Args:
        count: of tiles.
        pairs: (M, 2) numbers of two overlapping tiles, a and b.
        steps: (M,) by how much a stands above b, meters; see :func:`step_between`.
        weights: (M,) how much each pair counts.
        rounds: of reweighting.

    Returns:
        (count,) meters to add to each tile, of mean zero over each group of connected tiles, and (count,) the number of
        its group: between two groups nothing is known.
    """
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    links = coo_array((np.ones(len(pairs)), pairs.T), (count, count))
    groups = connected_components(links, directed=False)[1]
    if not len(pairs):
        return np.zeros(count), groups
    rows = np.repeat(np.arange(len(pairs)), 2)
    apart = coo_array((np.tile([-1.0, 1.0], len(pairs)), (rows, pairs.ravel())), (len(pairs), count)).tocsr()
    _, anchors = np.unique(groups, return_index=True)  # one tile of each group is held
    hold = np.zeros(count)
    hold[anchors] = weights.mean()
    trust = np.ones(len(pairs))
    for _ in range(rounds):
        matrix = apart.T @ diags_array(weights * trust) @ apart + diags_array(hold)
        levels = np.atleast_1d(spsolve(matrix.tocsc(), apart.T @ (weights * trust * steps)))
        residual = np.abs(apart @ levels - steps)
        bend = max(1.345 * 1.4826 * np.median(residual), 1e-6)  # Huber's, in robust standard deviations
        trust, before = np.minimum(1, bend / np.maximum(residual, bend)), trust
        if np.abs(trust - before).max() < 1e-3:
            break
    means = np.bincount(groups, levels) / np.bincount(groups)
    return levels - means[groups], groups


class Blend:
    """Tiles faded into each other over some rows of a mosaic, with how far they disagree.

    Args:
        height, width: px.
        size: of a tile, px.
    """

    def __init__(self, height: int, width: int, size: int):
        self.sums = np.zeros((4, height, width))  # of weights, heights, their squares, and a number that each tile has
        self.weight = window(size)

    def add(self, heights: np.ndarray, spread: np.ndarray, mark: float, row: int, column: int) -> None:
        """Add a tile whose corner is at a row and column, which may lie outside.

        Args:
            heights: (T, T) meters, NaN where unknown.
            spread: (T, T) standard deviation of what was averaged into them, meters.
            mark: a number of the tile, to be faded as its heights are.
        """
        size, (_, height, width) = len(self.weight), self.sums.shape
        top, bottom, left, right = max(row, 0), min(row + size, height), max(column, 0), min(column + size, width)
        if top >= bottom or left >= right:
            return
        part = slice(top - row, bottom - row), slice(left - column, right - column)
        values, wide = heights[part].astype(np.float64), spread[part].astype(np.float64)
        weight = np.where(np.isnan(values), 0, self.weight[part])
        values, wide = np.nan_to_num(values), np.nan_to_num(wide)
        into = self.sums[:, top:bottom, left:right]
        for total, term in zip(into, (1.0, values, values**2 + wide**2, mark)):
            total += weight * term

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights, the standard deviation about them of what the tiles said, and the marks: (height, width) each, NaN
        where no tile was."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, square, mark = self.sums[1:] / self.sums[0]
        return mean, np.sqrt(np.maximum(square - mean**2, 0)), mark
