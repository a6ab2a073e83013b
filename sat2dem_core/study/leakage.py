"""How much a split of neighboring tiles flatters a score: every tile of a scene is tested once, in folds of larger and
larger blocks.

Folds of single tiles are the paper's shuffle, in which training tiles adjoin test tiles. Folds of blocks keep most of
them apart. Both test the whole area, so their scores differ only because of what lay nearby in training.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import block_of
from sat2dem_core.dataset.tiles import Tiles, cut
from sat2dem_core.errors import NoTiles
from sat2dem_core.evaluation.scoring import evaluate
from sat2dem_core.study.rows import tile_rows
from sat2dem_core.training.trainer import train

COLUMNS = [
    "tile", "row", "column", "pixels", "distance", "absolute", "above minimum", "relief", "constant: absolute",
    "constant: above minimum", "tile mean: relief",
]


def folds(tiles: Tiles, block: int, count: int, seed: int = 0) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Numbers of the training, validation and test tiles, ``count`` times, so that each tile is tested once.

    Blocks are assigned to the folds at random; the validation tiles are the next fold.

    Args:
        block: side of the blocks that stay together, tiles; 1 for the shuffle of single tiles.

    Raises:
        NoTiles: there are fewer blocks than folds, or fewer than three folds.
    """
    blocks = block_of(tiles, block)
    names = sorted(set(blocks))
    if len(names) < count or count < 3:
        raise NoTiles(
            f"{len(names)} blocks of {block} x {block} tiles make no {count} folds: take 3 or more, and smaller blocks"
        )
    fold_of = dict(zip(names, (np.random.default_rng(seed).permutation(len(names)) % count).tolist()))
    members: list[list[int]] = [[] for _ in range(count)]
    for number, name in enumerate(blocks):
        members[fold_of[name]].append(number)
    for test in range(count):
        validation = (test + 1) % count
        others = (members[fold] for fold in range(count) if fold not in (test, validation))
        yield sorted(number for fold in others for number in fold), members[validation], members[test]


def cross_validate(
    config: Config, blocks: tuple[int, ...] = (1, 2, 4, 8), count: int = 5, scene: xr.Dataset | None = None
) -> pd.DataFrame:
    """Train and test on the folds of every block size; runs are cached.

    Args:
        config: its ``tile`` is the side of a tile, px; tiles lie side by side, whatever its ``stride`` and ``split``.
        blocks: sides of the blocks, tiles.
        count: how many folds.
        scene: your own in place of ``config.scene``.

    Returns:
        A row for each block size and tile: ``block``, ``fold``, and ``COLUMNS``; see
        :func:`sat2dem_core.study.rows.tile_rows`.
    """
    tiles = cut(open_scene(config.scene) if scene is None else scene, config.tile)
    normalization = Normalization.fit(config.normalization, tiles.dem)
    splits = [
        (block, fold, parts)
        for block in blocks for fold, parts in enumerate(folds(tiles, block, count, config.seed))
    ]
    tables = []
    for block, fold, parts in tqdm(splits, unit="run"):
        train_tiles, validation, test = (tiles.take(part) for part in parts)
        run = train(config, data=Data(train_tiles, validation, test, normalization), progress=False)
        evaluation = evaluate(run.model(), test, train_tiles)
        rows = tile_rows(evaluation, test, train_tiles)[COLUMNS]
        rows.insert(0, "block", block)
        rows.insert(1, "fold", fold)
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)
