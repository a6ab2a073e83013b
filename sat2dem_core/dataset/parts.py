"""The data of a run: a scene or a store as training, validation and test tiles, with their normalization."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.splits import block_of, divide, paper_split, split_groups
from sat2dem_core.dataset.tiles import Tiles, cut, extremes_of
from sat2dem_core.errors import InvalidConfig, NoTiles, WrongShape

if TYPE_CHECKING:
    import xarray as xr

GIVEN = "given in Python"  # how the source of such data ends


@dataclass(frozen=True)
class Data:
    """Training, validation and test tiles, and their normalization.

    ``rgb`` and ``dem`` of the tiles may be any array that a list of positions indexes, such as a Zarr array: one that
    is not a NumPy array is read batch by batch. Random crops are cut from ``region``. ``source`` names in words where
    the tiles come from; a run records it.
    """

    train: Tiles
    validation: Tiles
    test: Tiles
    normalization: Normalization
    region: "xr.Dataset | None" = None
    source: str = f"tiles {GIVEN}"

    def fingerprint(self) -> str:
        """SHA-256 of all tiles and the normalization; the same tiles from another source have the same."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test)]
        if self.region is not None:
            pixels = (np.ascontiguousarray(self.region[name].values).data for name in ("rgb", "dem"))
            parts += [hashlib.sha256(values).hexdigest() for values in pixels]
        return hashlib.sha256(",".join([*parts, repr(self.normalization)]).encode()).hexdigest()


def prepare(config: Config, scene: "xr.Dataset | None" = None) -> Data:
    """Open a scene, split it, cut tiles and fit the normalization; or read a store, whose tiles are cut already.

    Args:
        scene: a Dataset of your own (see :func:`sat2dem_core.dataset.scenes.open_pair`) in place of ``config.scene``.

    Raises:
        UnknownName, DamagedStore: there is no such scene, or no such store.
        WrongShape, InvalidConfig: a setting does not fit the store.
        NoTiles: the scene or the store is too small for the split.
        NoElevation, FlatElevation: see :meth:`sat2dem_core.dataset.normalize.Normalization.fit`.
    """
    region, source = None, source_of(config, scene)
    if scene is None and config.scene.endswith(".zarr"):
        from sat2dem_core.dataset.store import read_parts  # needs zarr; a scene does not

        parts = read_parts(config.scene, config.split, config.version)
        if parts[0].size != config.tile:
            raise WrongShape(f"the tiles of {config.scene} have {parts[0].size} px: set tile={parts[0].size}")
        if config.crops:
            raise InvalidConfig(f"crops are cut from a scene, and {config.scene} is a store of tiles: set crops=false")
    else:
        if scene is None:
            from sat2dem_core.dataset.scenes import open_scene  # needs raster libraries; a Dataset does not

            scene = open_scene(config.scene)
        parts = _cut_parts(config, scene)
        region = divide(scene)[0] if config.crops else None
    extremes = np.concatenate([_extremes(part) for part in parts])
    return Data(*parts, Normalization.fit(config.normalization, extremes), region, source)


def every_tile(config: Config, scene: "xr.Dataset | None" = None) -> tuple[Tiles, str]:
    """All tiles of a scene or a store, whole and side by side, to score a run of ``config`` that has seen none of them.

    Tiles of a scene with any nodata are left out; those of a store stay on disk.

    Args:
        scene: a Dataset of your own in place of ``config.scene``.

    Returns:
        The tiles, and where they come from, in words.

    Raises:
        UnknownName, DamagedStore: there is no such scene, or no such store.
        WrongShape: the store's tiles have another size than the run's.
        NoTiles: the scene is smaller than a tile, or every tile has nodata.
    """
    if scene is None and config.scene.endswith(".zarr"):
        from sat2dem_core.dataset.store import open_store, read_tiles

        pairs = np.flatnonzero(open_store(config.scene).nodata_share.values < 1)
        tiles = read_tiles(config.scene, pairs, lazy=True)
        if tiles.size != config.tile:
            raise WrongShape(
                f"the tiles of {config.scene} have {tiles.size} px, and the run's have {config.tile} px: give a store "
                "of such tiles, or a scene"
            )
        return tiles, source_of(config)
    source = source_of(config, scene)
    if scene is None:
        from sat2dem_core.dataset.scenes import open_scene

        scene = open_scene(config.scene)
    return cut(scene, config.tile), source


def source_of(config: Config, scene: "xr.Dataset | None" = None) -> str:
    """Where the data of a config or of a Dataset in its place come from, in words."""
    if scene is None:
        return f"{'store' if config.scene.endswith('.zarr') else 'scene'} {config.scene}"
    return f"scene {scene.attrs['name']}, {GIVEN}" if scene.attrs.get("name") else f"a scene {GIVEN}"


def _extremes(tiles: Tiles) -> np.ndarray:
    """Lowest and highest point of each tile, (N, 1, 2) meters, all that a normalization is fitted to."""
    if tiles.extremes is not None:
        return tiles.extremes[:, None]
    chunks = (np.asarray(tiles.dem[start : start + 256]) for start in range(0, len(tiles), 256))
    return np.concatenate([extremes_of(chunk) for chunk in chunks])[:, None]


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
