"""Which ground trains, which chooses the checkpoint, and which tests.

Divide first, then cut: :func:`divide` splits a scene into regions with a gap between them, and
:func:`sat2dem_core.dataset.tiles.cut` makes tiles of each, so no tile of one region can touch a tile of another, however
densely they overlap within one. :func:`split_groups` keeps blocks of tiles together. The paper shuffles single tiles
instead (:func:`paper_split`), so that neighbors fall on both sides.
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
BLOCK = 4  # side of the blocks that go into one part whole, tiles


def divide(
    scene: "xr.Dataset", test: float = 0.38, validation: float = 0.25, gap: int = 8
) -> "tuple[xr.Dataset, xr.Dataset, xr.Dataset]":
    """Divide a scene's ground into regions for training, validation and test.

    The eastern share ``test`` is held out; of what lies west of it, the southern share ``validation`` chooses the
    checkpoint; strips of ``gap`` px between the regions belong to none.

    Raises:
        NoTiles: a share or the gap leaves a region without ground.

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
    row0, column0 = scene.attrs.get("origin", (0, 0))

    def region(rows: slice, columns: slice) -> "xr.Dataset":
        part = scene.isel(y=rows, x=columns)
        part.attrs = scene.attrs | {"origin": (row0 + (rows.start or 0), column0 + (columns.start or 0))}
        return part

    west = slice(0, east - gap)
    return (
        region(slice(0, south - gap), west),
        region(slice(south, height), west),
        region(slice(0, height), slice(east, width)),
    )


def split_groups(
    groups: Sequence[Hashable], seed: int, shares: tuple[float, float] = (0.70, 0.15)
) -> tuple[list[int], list[int], list[int]]:
    """Divide tiles so that those of one group fall into one part whole.

    Args:
        groups: which group each tile belongs to.
        shares: of training and validation.

    Returns:
        The numbers of the training, validation and test tiles, each ascending.

    Raises:
        NoTiles: there are too few groups for three parts.
    """
    names, size = sorted(set(groups)), Counter(groups)  # type: ignore[type-var]
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum([size[names[i]] for i in order]) / len(groups)
    part = {names[i]: int(np.searchsorted(np.cumsum(shares), end - 1e-9, side="right")) for i, end in zip(order, ends)}
    train, validation, test = ([number for number, group in enumerate(groups) if part[group] == p] for p in range(3))
    if not (train and validation and test):
        raise NoTiles(
            f"{len(groups)} tiles in {len(names)} blocks leave a part of the split empty: choose smaller blocks or a "
            "larger region"
        )
    return train, validation, test


def block_of(tiles: Tiles, block: int = BLOCK) -> list[tuple[int, int]]:
    """In which square of ``block`` x ``block`` tiles of its scene each tile's corner lies."""
    return [(int(row), int(column)) for row, column in tiles.corners // (block * tiles.size)]


def paper_split(version: int, count: int = PAPER_TILES) -> tuple[list[int], list[int], list[int]]:
    """The paper's random split: shuffle all tile numbers, 70 % train, 15 % validation, the rest test.

    The four versions are resamples, not folds (their test sets share tiles), and not geographic (neighboring
    tiles fall into train and test), which flatters scores: Ploton et al. (2020), doi 10.1038/s41467-020-18321-y.

    Args:
        version: the seed; the paper uses 1 to 4.
        count: number of tiles.

    Returns:
        The numbers of the training, validation and test tiles.

    >>> [len(part) for part in paper_split(1)]
    [7165, 1535, 1537]
    """
    numbers = list(range(count))
    random.Random(version).shuffle(numbers)
    train = int(0.70 * count)
    validation = train + int(0.15 * count)
    return numbers[:train], numbers[train:validation], numbers[validation:]
