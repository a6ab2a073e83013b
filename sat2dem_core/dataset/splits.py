"""Splits into training, validation and test: by area, by blocks of tiles, or shuffled as in the paper.

By area, divide first, then cut: :func:`divide` splits a scene into regions with a gap between them, and
:func:`sat2dem_core.dataset.tiles.cut` makes tiles of each, so that no tile of one region touches a tile of another,
however densely tiles overlap within a region. :func:`split_groups` keeps the tiles of a block together. The paper
shuffles single tiles (:func:`paper_split`), which puts neighbors on both sides of the split.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.errors import NoTiles

if TYPE_CHECKING:
    import xarray as xr

PAPER_TILES = 10237  # Zenodo record 14647632
BLOCK = 4  # tiles along the side of a block


def divide(
    scene: "xr.Dataset", test: float = 0.38, validation: float = 0.25, gap: int = 8
) -> "tuple[xr.Dataset, xr.Dataset, xr.Dataset]":
    """Divide a scene into regions for training, validation and test.

    The eastern share ``test`` is the test region; of the rest, the southern share ``validation`` is the validation
    region; strips of ``gap`` px between the regions belong to none.

    Raises:
        NoTiles: a share or the gap leaves a region empty.

    >>> from sat2dem_core import open_scene
    >>> from sat2dem_core.dataset.tiles import cut
    >>> [len(cut(region, 64)) for region in divide(open_scene())]
    [4, 2, 4]
    """
    height, width = scene.sizes["y"], scene.sizes["x"]
    east, south = round(width * (1 - test)), round(height * (1 - validation))
    if gap < 0 or not (0 < south - gap <= south < height and 0 < east - gap <= east < width):
        raise NoTiles(
            f"test={test}, validation={validation} and a gap of {gap} px leave a region of this {height} x {width} px "
            "scene empty: choose shares between 0 and 1 and a smaller gap"
        )
    west = slice(0, east - gap)
    return (
        _region(scene, slice(0, south - gap), west),
        _region(scene, slice(south, height), west),
        _region(scene, slice(0, height), slice(east, width)),
    )


def _region(scene: "xr.Dataset", rows: slice, columns: slice) -> "xr.Dataset":
    """A part of a scene; its attribute ``origin`` is the row and column of its upper left pixel in the whole scene."""
    row, column = scene.attrs.get("origin", (0, 0))
    region = scene.isel(y=rows, x=columns)
    region.attrs = scene.attrs | {"origin": (row + rows.start, column + columns.start)}
    return region


def split_groups(
    groups: Sequence[Hashable], seed: int, shares: tuple[float, float] = (0.70, 0.15)
) -> tuple[list[int], list[int], list[int]]:
    """Split tiles at random, keeping the tiles of a group together.

    Args:
        groups: the group of each tile.
        seed: of the random order of the groups.
        shares: of training and validation.

    Returns:
        Positions of the training, validation and test tiles, each ascending.

    Raises:
        NoTiles: there are too few groups for three parts.
    """
    names, sizes = sorted(set(groups)), Counter(groups)  # type: ignore[type-var]
    order = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    ends = np.cumsum([sizes[name] for name in order]) / len(groups)  # share of the tiles up to the end of each group
    part_of = dict(zip(order, np.searchsorted(np.cumsum(shares), ends - 1e-9, side="right")))  # 0, 1 or 2
    parts = np.array([part_of[group] for group in groups])
    train, validation, test = (np.flatnonzero(parts == part).tolist() for part in range(3))
    if not (train and validation and test):
        raise NoTiles(
            f"{len(groups)} tiles in {len(names)} blocks leave a part of the split empty: choose smaller blocks or a "
            "larger region"
        )
    return train, validation, test


def block_of(tiles: Tiles, block: int = BLOCK) -> list[tuple[int, int]]:
    """For each tile the square of ``block`` x ``block`` tiles, counted in its scene, that holds the tile's corner."""
    return [(int(row), int(column)) for row, column in tiles.corners // (block * tiles.size)]


def paper_split(version: int, count: int = PAPER_TILES) -> tuple[list[int], list[int], list[int]]:
    """The paper's random split of shuffled tiles: 70 % for training, 15 % for validation, the rest for test.

    The four versions are resamples, not folds: their test sets share tiles. Nor are they geographic: neighboring tiles
    fall into training and test, which makes scores too good (Ploton et al. 2020, doi 10.1038/s41467-020-18321-y).

    Args:
        version: the seed; the paper uses 1 to 4.
        count: number of tiles.

    Returns:
        Positions of the training, validation and test tiles.

    >>> [len(part) for part in paper_split(1)]
    [7165, 1535, 1537]
    """
    numbers = list(range(count))
    random.Random(version).shuffle(numbers)
    train = int(0.70 * count)
    validation = train + int(0.15 * count)
    return numbers[:train], numbers[train:validation], numbers[validation:]
