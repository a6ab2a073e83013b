"""A scene or a store in three parts: tiles to train on, to choose the checkpoint by and to test on."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.splits import block_of, divide, paper_split, split_groups
from sat2dem_core.dataset.tiles import Tiles, cut
from sat2dem_core.errors import InvalidConfig, NoTiles, WrongShape

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Data:
    """Tiles to train on, to choose the checkpoint by and to test on, and their normalization.

    ``rgb`` and ``dem`` of the tiles may be anything that a list of numbers indexes, a Zarr array for one: what is no
    plain NumPy array is read batch by batch. ``region`` is the ground that random crops are cut from.
    """

    train: Tiles
    validation: Tiles
    test: Tiles
    normalization: Normalization
    region: "xr.Dataset | None" = None

    def fingerprint(self) -> str:
        """SHA-256 of all tiles and the normalization."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test)]
        if self.region is not None:
            pixels = (np.ascontiguousarray(self.region[name].values).data for name in ("rgb", "dem"))
            parts += [hashlib.sha256(values).hexdigest() for values in pixels]
        return hashlib.sha256(",".join([*parts, repr(self.normalization)]).encode()).hexdigest()


def prepare(config: Config, scene: "xr.Dataset | None" = None) -> Data:
    """Open the scene, divide it, cut tiles and fit the normalization; a store's tiles are cut already.

    Args:
        scene: a Dataset of your own (see :func:`sat2dem_core.dataset.scenes.open_pair`) in place of ``config.scene``.
    """
    region = None
    if scene is None and config.scene.endswith(".zarr"):
        from sat2dem_core.dataset.store import read_parts  # needs zarr, which a scene does not

        parts = read_parts(config.scene, config.split, config.version)
        if parts[0].size != config.tile:
            raise WrongShape(f"the tiles of {config.scene} have {parts[0].size} px: set tile={parts[0].size}")
        if config.crops:
            raise InvalidConfig(f"crops are cut from a scene, and {config.scene} is a store of tiles: set crops=false")
    else:
        if scene is None:
            from sat2dem_core.dataset.scenes import open_scene  # needs raster libraries, which tiles at hand do not

            scene = open_scene(config.scene)
        parts = _cut_parts(config, scene)
        region = divide(scene)[0] if config.crops else None
    extremes = np.concatenate([_extremes(part) for part in parts])
    return Data(*parts, Normalization.fit(config.normalization, extremes), region)


def _extremes(tiles: Tiles) -> np.ndarray:
    """Lowest and highest point of each tile, (N, 1, 2) meters: all that a normalization asks, read some tiles at a time."""
    parts = (np.asarray(tiles.dem[at : at + 256]) for at in range(0, len(tiles), 256))
    rows = [(np.fmin.reduce(part, (1, 2)), np.fmax.reduce(part, (1, 2))) for part in parts]
    return np.concatenate([np.stack(row, -1)[:, None] for row in rows])


def _cut_parts(config: Config, scene: "xr.Dataset") -> tuple[Tiles, Tiles, Tiles]:
    if config.split == "space":
        west, south, east = divide(scene)
        return cut(west, config.tile, config.stride), cut(south, config.tile, config.tile // 2), cut(east, config.tile)
    tiles = cut(scene, config.tile, config.stride)
    if config.split == "blocks":
        parts = split_groups(block_of(tiles), config.version)
    else:
        parts = paper_split(config.version, len(tiles))
    if not all(parts):
        raise NoTiles(f"{len(tiles)} tiles are too few for the paper's split: choose smaller tiles or stride")
    train, validation, test = (tiles.take(part) for part in parts)
    return train, validation, test
