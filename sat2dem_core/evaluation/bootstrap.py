"""Confidence intervals of scores over blocks of tiles and seeds, and whether two predictors differ significantly.

Errors of neighboring pixels are correlated, and so are those of neighboring tiles. The bootstrap therefore resamples
whole blocks of tiles, and trainings by their seed, independently of each other. For a pair of predictors it draws the
same blocks for both, and seeds for each on its own.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from sat2dem_core.errors import NoTiles, WrongShape

DRAWS = 4000


class Estimate(NamedTuple):
    """A value with its confidence interval over blocks of tiles and seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


class Difference(NamedTuple):
    """One predictor's mean error minus another's, with its confidence interval.

    Attributes:
        p: p-value of a block-wise sign-flip permutation test. It is about these trainings; the interval also allows
            for other seeds.
        blocks: how many blocks of tiles were resampled.
    """

    value: float
    low: float
    high: float
    p: float
    blocks: int

    @property
    def significant(self) -> bool:
        """Whether the interval, by default one of 90 %, excludes zero: the one verdict of this project."""
        return not self.low <= 0 <= self.high


def bootstrap_mean(
    errors: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable], share: float = 0.9, seed: int = 0
) -> Estimate:
    """Mean error over all pixels, with its confidence interval over blocks of tiles and seeds.

    Args:
        errors: (N,) mean error of each tile, or (S, N) for S seeds.
        pixels: (N,) valid pixels of each tile.
        blocks: the block that each tile belongs to; see :func:`sat2dem_core.dataset.splits.block_of`.
        share: confidence level of the interval.
        seed: of the random draws.

    Raises:
        NoTiles: there are fewer than two blocks with valid pixels.
        WrongShape: the three do not belong to the same tiles.
    """
    sums, counts = _by_block(errors, pixels, blocks)
    means = _resampled_means(sums, counts, np.random.default_rng(seed), _drawn_blocks(len(counts), seed))
    return Estimate(float(sums.mean(0).sum() / counts.sum()), *_interval(means, share))


def paired_difference(
    a: np.ndarray, b: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable], share: float = 0.9, seed: int = 0
) -> Difference:
    """Mean error of ``a`` minus that of ``b`` on the same tiles; arguments as for :func:`bootstrap_mean`."""
    sums_a, counts = _by_block(a, pixels, blocks)
    sums_b, _ = _by_block(b, pixels, blocks)
    rng, drawn = np.random.default_rng(seed), _drawn_blocks(len(counts), seed)
    differences = _resampled_means(sums_a, counts, rng, drawn) - _resampled_means(sums_b, counts, rng, drawn)
    contributions = (sums_a.mean(0) - sums_b.mean(0)) / counts.sum()  # (B,)
    p = _sign_flip_p(contributions, rng)
    return Difference(float(contributions.sum()), *_interval(differences, share), p, len(counts))


def _by_block(errors: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Summed errors (S, B) and pixels (B,) of each block."""
    errors, pixels = np.atleast_2d(np.asarray(errors, float)), np.asarray(pixels, float)
    if not errors.shape[1] == len(pixels) == len(blocks):
        lengths = f"errors of {errors.shape[1]} tiles, pixels of {len(pixels)}, blocks of {len(blocks)}"
        raise WrongShape(f"{lengths}: give one of each for every tile")
    used = {block for block, count in zip(blocks, pixels) if count}
    if len(used) < 2:
        raise NoTiles(
            f"an interval needs at least 2 blocks with valid pixels, not {len(used)}: use smaller blocks, or more tiles"
        )
    number = {block: number for number, block in enumerate(sorted(used))}  # type: ignore[type-var]
    member = np.zeros((len(pixels), len(used)))
    for tile, block in enumerate(blocks):
        if pixels[tile]:
            member[tile, number[block]] = 1
    return np.where(pixels > 0, errors * pixels, 0) @ member, pixels @ member  # an empty tile's error is NaN


def _drawn_blocks(count: int, seed: int) -> np.ndarray:
    """How often each draw takes each block, (DRAWS, B)."""
    return np.random.default_rng([seed, 1]).multinomial(count, np.full(count, 1 / count), DRAWS)


def _resampled_means(sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, drawn: np.ndarray) -> np.ndarray:
    """Mean errors (DRAWS,) of the drawn blocks, with seeds drawn by ``rng``."""
    seeds = len(sums)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds  # (DRAWS, S)
    return np.einsum("ds,sb,db->d", weights, sums, drawn) / (drawn @ counts)


def _interval(values: np.ndarray, share: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _sign_flip_p(contributions: np.ndarray, rng: np.random.Generator) -> float:
    """P-value of a sign-flip permutation test: how often random signs of the blocks give a sum at least as large."""
    signs = rng.choice([-1, 1], (DRAWS, len(contributions)))
    as_large = np.abs(signs @ contributions) >= abs(contributions.sum()) - 1e-12
    return float((1 + np.sum(as_large)) / (DRAWS + 1))
