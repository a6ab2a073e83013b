"""How much a split of neighboring tiles flatters a score: every tile of a scene tested once, in folds of larger and
larger blocks.

Folds of single tiles are the paper's shuffle, in which a tested tile's neighbors were trained on. In folds of blocks
they were not. Both test all the ground, so their scores differ by what was near in training, and by nothing else.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import KDTree
from tqdm import tqdm

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import block_of
from sat2dem_core.dataset.tiles import Tiles, cut
from sat2dem_core.errors import NoTiles
from sat2dem_core.evaluation.scoring import evaluate
from sat2dem_core.training.trainer import train


def folds(tiles: Tiles, block: int, count: int, seed: int = 0) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Training, validation and test tiles, ``count`` times, so that each tile is tested once.

    Blocks are dealt to the folds at random; validation is the next fold.

    Args:
        block: side of the blocks that stay together, tiles; 1 for the shuffle of single tiles.

    Raises:
        NoTiles: there are fewer blocks than folds, or fewer than three folds.
    """
    of = block_of(tiles, block)
    names = sorted(set(of))
    if len(names) < count or count < 3:
        raise NoTiles(f"{len(names)} blocks of {block} x {block} tiles make no {count} folds: take 3 or more, and smaller blocks")
    dealt = np.random.default_rng(seed).permutation(len(names)) % count
    fold = dict(zip(names, dealt.tolist()))
    members = [[number for number, name in enumerate(of) if fold[name] == part] for part in range(count)]
    for part in range(count):
        validation = (part + 1) % count
        rest = sorted(number for other in range(count) if other not in (part, validation) for number in members[other])
        yield rest, members[validation], members[part]


def cross_validate(
    config: Config, blocks: tuple[int, ...] = (1, 2, 4, 8), count: int = 5, scene: xr.Dataset | None = None
) -> pd.DataFrame:
    """Train and test on the folds of every block size; runs are cached.

    Args:
        config: ``tile`` is the side of a tile, px; tiles lie side by side, whatever its stride and split say.
        blocks: sides of the blocks, tiles.
        scene: your own in place of ``config.scene``.

    Returns:
        A row for each block size and tile: ``block``, ``fold``, ``tile``, its ``row`` and ``column``, ``pixels``, ``distance``
        to the center of the closest training tile in meters, and MAE by question of the model and of ``constant``, of
        relief also of ``tile mean``.
    """
    scene = open_scene(config.scene) if scene is None else scene
    tiles, rows = cut(scene, config.tile), []
    normalization = Normalization.fit(config.normalization, tiles.dem)
    for block, (fold, parts) in tqdm([(b, pair) for b in blocks for pair in enumerate(folds(tiles, b, count, config.seed))], unit="run"):
        train_tiles, validation, test = (tiles.take(part) for part in parts)
        data = Data(train_tiles, validation, test, normalization)
        run = train(config, data=data, progress=False)
        found = evaluate(run.model(), data.test, data.train).tiles
        meters = np.array(tiles.gsd)
        distance = KDTree(data.train.corners * meters).query(data.test.corners * meters)[0]
        asked = {
            "absolute": f"absolute: {config.method}", "above minimum": f"above minimum: {config.method}",
            "relief": f"relief: {config.method}", "constant: absolute": "absolute: constant",
            "constant: above minimum": "above minimum: constant", "tile mean: relief": "relief: tile mean",
        }
        rows.append(pd.DataFrame({
            "block": block, "fold": fold, "tile": found.index, "row": data.test.corners[:, 0], "column": data.test.corners[:, 1],
            "pixels": found.pixels.values, "distance": distance.round(), **{name: found[key].round(2).values for name, key in asked.items()},
        }))
    return pd.concat(rows, ignore_index=True)
