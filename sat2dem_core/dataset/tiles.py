"""Scenes cut into tiles, and tiles divided into training, validation and test.

Divide first, then cut: :func:`divide` splits the ground into regions with a gap between, and :func:`cut` makes
tiles of each, so no tile of one region can touch a tile of another, however densely they overlap within one.
The paper shuffles tiles instead (:func:`paper_split`), and neighbors fall on both sides.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from sat2dem_core.errors import NoTiles, WrongShape
from sat2dem_core.dataset.scenes import ground_sampling_distance

PAPER_TILES = 10237  # Zenodo record 14647632
BLOCK = 4  # side of the blocks that go into one part whole, tiles


@dataclass(frozen=True)
class Tiles:
    """Square tiles in memory, or on disk where :func:`sat2dem_core.dataset.store.read_tiles` leaves them there.

    Attributes:
        rgb: (N, 3, T, T) uint8.
        dem: (N, T, T) float32 meters, NaN for nodata.
        ids: N names, scene and pixel of the upper left corner: ``rocky-mountain_r0064_c0128``.
        corners: (N, 2) that pixel as row and column of the scene.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        dropped: how many tiles were left out for their nodata.
    """

    rgb: np.ndarray
    dem: np.ndarray
    ids: tuple[str, ...]
    corners: np.ndarray
    gsd: tuple[float, float]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        return self.dem.shape[-1]

    def take(self, numbers: list[int]) -> "Tiles":
        """These tiles alone, in this order."""
        ids = tuple(self.ids[number] for number in numbers)
        return replace(self, rgb=self.rgb[numbers], dem=self.dem[numbers], ids=ids, corners=self.corners[numbers])

    def fingerprint(self) -> str:
        """SHA-256 of every pixel and id, to tell whether two runs saw the same data."""
        digest = hashlib.sha256(",".join(self.ids).encode())
        for array in (self.rgb, self.dem):
            for at in range(0, len(self), 256):  # arrays on disk may be larger than memory
                digest.update(np.ascontiguousarray(array[at : at + 256]).data)
        return digest.hexdigest()


def check_tile_size(size: int, smallest: int = 32) -> None:
    """Raise WrongShape unless ``size`` is a power of two from ``smallest`` to 512 px."""
    if size < smallest or size > 512 or size & (size - 1):
        valid = [str(2**k) for k in range(5, 10) if 2**k >= smallest]
        raise WrongShape(f"a tile of {size} px fits no network: choose {', '.join(valid)}")


def cut(scene: xr.Dataset, size: int = 64, stride: int | None = None, max_nodata: float = 0.0) -> Tiles:
    """Cut a scene into square tiles, row by row from its upper left corner.

    Args:
        scene: ``rgb`` and ``dem`` on one grid; see :mod:`sat2dem_core.dataset.scenes`.
        size: px, a power of two from 32 to 512.
        stride: px between the corners of neighboring tiles; ``size``, so no overlap, when not given.
        max_nodata: largest share of NaN elevation a tile may have; tiles with more are dropped and counted,
            and no NaN is ever filled.

    Raises:
        WrongShape: the size is not such a power of two, or the stride not positive.
        NoTiles: the scene is smaller than a tile, or every tile has too much nodata.

    >>> from sat2dem_core.dataset.scenes import open_scene
    >>> cut(open_scene(), 64).dem.shape
    (16, 64, 64)
    """
    check_tile_size(size)
    stride = size if stride is None else stride
    if stride < 1:
        raise WrongShape(f"a stride of {stride} px goes nowhere: give 1 or more")
    name, height, width = scene.attrs.get("name", "scene"), scene.sizes["y"], scene.sizes["x"]
    if height < size or width < size:
        raise NoTiles(f"{name} is {height} x {width} px, smaller than one tile of {size} px: choose smaller tiles")

    def windows(array: np.ndarray) -> np.ndarray:  # (..., H, W) to (rows, columns, ..., T, T), without a copy
        views = np.lib.stride_tricks.sliding_window_view(array, (size, size), axis=(-2, -1))
        return np.moveaxis(views[..., ::stride, ::stride, :, :], (-4, -3), (0, 1))

    dem = windows(scene.dem.values)
    keep = np.isnan(dem).mean((-2, -1)) <= max_nodata  # (rows, columns)
    if not keep.any():
        raise NoTiles(
            f"all {keep.size} tiles of {name} have more than {max_nodata:.0%} nodata: "
            "raise max_nodata, choose smaller tiles, or give a DEM that covers more"
        )
    origin = scene.attrs.get("origin", (0, 0))
    corners = np.argwhere(keep) * stride + origin
    return Tiles(
        rgb=np.ascontiguousarray(windows(scene.rgb.values)[keep]),
        dem=np.ascontiguousarray(dem[keep], dtype=np.float32),
        ids=tuple(f"{name}_r{row:04d}_c{column:04d}" for row, column in corners),
        corners=corners, gsd=ground_sampling_distance(scene), dropped=int((~keep).sum()),
    )


def divide(
    scene: xr.Dataset, test: float = 0.38, validation: float = 0.25, gap: int = 8
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Divide a scene's ground into regions for training, validation and test.

    The eastern share ``test`` is held out; of what lies west of it, the southern share ``validation`` chooses the
    checkpoint; strips of ``gap`` px between the regions belong to none.

    Raises:
        NoTiles: a share or the gap leaves a region without ground.

    >>> from sat2dem_core.dataset.scenes import open_scene
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

    def region(rows: slice, columns: slice) -> xr.Dataset:
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
