"""How sure a score is: intervals over ground and seeds, and whether two predictors differ by more than noise.

Pixels of a tile rise and fall together, and neighboring tiles do, too. What can be drawn anew is a block of ground,
whole, and a training with another seed. The two are drawn apart: blocks the same for both predictors of a pair, seeds
each its own.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from sat2dem_core.errors import NoTiles, WrongShape

DRAWS = 4000


class Estimate(NamedTuple):
    """A value, and between what it lies when ground and seeds are drawn anew."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


class Difference(NamedTuple):
    """One predictor's mean error minus another's.

    Attributes:
        p: share of random exchanges of the two, block by block, that part them as far; of these very trainings, where the
            interval allows for other seeds, too.
        blocks: of ground, which were drawn.
    """

    value: float
    low: float
    high: float
    p: float
    blocks: int

    @property
    def noise(self) -> bool:
        """Whether the interval holds zero: the two cannot be told apart."""
        return self.low <= 0 <= self.high


def bootstrap_mean(
    errors: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable], share: float = 0.9, seed: int = 0
) -> Estimate:
    """Mean error of all pixels, with the interval that blocks of ground and seeds leave open.

    Args:
        errors: (N,) mean error of each tile, or (S, N) of S seeds.
        pixels: (N,) valid pixels of each tile.
        blocks: which block each tile belongs to; see :func:`sat2dem_core.dataset.tiles.block_of`.
        share: of the interval.

    Raises:
        NoTiles: there are fewer than two blocks.
        WrongShape: the three do not belong to the same tiles.
    """
    sums, counts = _by_block(errors, pixels, blocks)
    drawn = _draws(sums, counts, np.random.default_rng(seed), _drawn_blocks(len(counts), seed))
    return Estimate(float(sums.mean(0).sum() / counts.sum()), *map(float, np.quantile(drawn, [(1 - share) / 2, (1 + share) / 2])))


def paired_difference(
    a: np.ndarray, b: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable], share: float = 0.9, seed: int = 0
) -> Difference:
    """Mean error of ``a`` minus that of ``b`` on the same tiles; arguments as for :func:`bootstrap_mean`."""
    ours, counts = _by_block(a, pixels, blocks)
    theirs, _ = _by_block(b, pixels, blocks)
    rng, chosen = np.random.default_rng(seed), _drawn_blocks(len(counts), seed)
    drawn = _draws(ours, counts, rng, chosen) - _draws(theirs, counts, rng, chosen)
    apart = (ours.mean(0) - theirs.mean(0)) / counts.sum()  # (blocks,): what each adds to the difference
    signs = rng.choice([-1, 1], (DRAWS, len(apart)))
    p = (1 + np.sum(np.abs(signs @ apart) >= abs(apart.sum()) - 1e-12)) / (DRAWS + 1)
    low, high = np.quantile(drawn, [(1 - share) / 2, (1 + share) / 2])
    return Difference(float(apart.sum()), float(low), float(high), float(p), len(counts))


def _by_block(errors: np.ndarray, pixels: np.ndarray, blocks: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Summed errors (S, B) and pixels (B,) of each block."""
    errors, pixels = np.atleast_2d(np.asarray(errors, float)), np.asarray(pixels, float)
    if not errors.shape[1] == len(pixels) == len(blocks):
        raise WrongShape(f"errors of {errors.shape[1]} tiles, pixels of {len(pixels)}, blocks of {len(blocks)}: give one of each a tile")
    seen = {block for block, count in zip(blocks, pixels) if count}
    names = {name: number for number, name in enumerate(sorted(seen))}  # type: ignore[type-var]
    if len(names) < 2:
        raise NoTiles(f"{len(names)} block of ground says nothing about others: use smaller blocks, or more tiles")
    member = np.zeros((len(pixels), len(names)))
    for tile, block in enumerate(blocks):
        if pixels[tile]:
            member[tile, names[block]] = 1
    return np.where(pixels > 0, errors * pixels, 0) @ member, pixels @ member  # an empty tile's error is NaN


def _drawn_blocks(count: int, seed: int) -> np.ndarray:
    """How often each block is drawn, (DRAWS, B)."""
    return np.random.default_rng([seed, 1]).multinomial(count, np.full(count, 1 / count), DRAWS)


def _draws(sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
    """Mean errors (DRAWS,) with seeds drawn by ``rng`` and the blocks that were chosen."""
    seeds = len(sums)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds  # (DRAWS, S)
    return np.einsum("ds,sb,db->d", weights, sums, chosen) / (chosen @ counts)
