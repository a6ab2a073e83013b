"""Square tiles, and cutting a scene into them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sat2dem_core.errors import NoTiles, WrongShape

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Tiles:
    """Square tiles in memory, or on disk if :func:`sat2dem_core.dataset.store.read_tiles` leaves them there.

    Attributes:
        rgb: (N, 3, T, T) uint8.
        dem: (N, T, T) float32 meters, NaN for nodata.
        ids: N names of scene and upper left pixel: ``rocky-mountain_r0064_c0128``.
        corners: (N, 2) row and column of that pixel in the scene.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        dropped: number of tiles left out because of their nodata.
        extremes: (N, 2) meters, the lowest and highest point of each tile, where a store knows them; NaN without data.
        digests: N digests of the tiles' pixels (:func:`digest_of`), where a store knows them.
    """

    rgb: np.ndarray
    dem: np.ndarray
    ids: tuple[str, ...]
    corners: np.ndarray
    gsd: tuple[float, float]
    dropped: int = 0
    extremes: np.ndarray | None = None
    digests: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        return self.dem.shape[-1]

    def take(self, numbers: list[int]) -> "Tiles":
        """The tiles of these positions alone, in this order."""
        ids = tuple(self.ids[number] for number in numbers)
        return replace(
            self, rgb=self.rgb[numbers], dem=self.dem[numbers], ids=ids, corners=self.corners[numbers],
            extremes=None if self.extremes is None else self.extremes[numbers],
            digests=None if self.digests is None else tuple(self.digests[number] for number in numbers),
        )

    def fingerprint(self) -> str:
        """SHA-256 of every id and pixel, to check whether two runs used the same data.

        Of tiles whose store knows their digests, it is taken of these: no pixel is read.
        """
        digest = hashlib.sha256(",".join(self.ids).encode())
        if self.digests is not None:
            digest.update(",".join(self.digests).encode())
            return digest.hexdigest()
        for array in (self.rgb, self.dem):
            for start in range(0, len(self), 256):  # arrays on disk may be larger than memory
                digest.update(np.ascontiguousarray(array[start : start + 256]).data)
        return digest.hexdigest()


def joined(parts: Sequence[Tiles]) -> Tiles:
    """The tiles of several scenes as one, in their order.

    Raises:
        NoTiles: there is none.
        WrongShape: their sizes or ground sampling distances differ by more than a percent.
    """
    if not sum(map(len, parts)):
        raise NoTiles("there is no tile to join: give scenes that hold one")
    first = parts[0]
    for part in parts:
        if part.size != first.size or not np.allclose(part.gsd, first.gsd, rtol=0.01):
            raise WrongShape(
                f"tiles of {part.size} px of {part.gsd[0]:.1f} m and of {first.size} px of {first.gsd[0]:.1f} m cannot "
                "be joined: give scenes of one pixel size"
            )
    return Tiles(
        rgb=np.concatenate([part.rgb for part in parts]), dem=np.concatenate([part.dem for part in parts]),
        ids=tuple(name for part in parts for name in part.ids),
        corners=np.concatenate([part.corners for part in parts]), gsd=first.gsd,
        dropped=sum(part.dropped for part in parts),
    )


def digest_of(rgb: np.ndarray, dem: np.ndarray) -> str:
    """SHA-256 of one tile's pixels: rgb (3, T, T) uint8, then dem (T, T) float32."""
    return hashlib.sha256(rgb.tobytes() + dem.tobytes()).hexdigest()


def extremes_of(dem: np.ndarray) -> np.ndarray:
    """Lowest and highest point of each tile: (N, 2) meters of (N, T, T); NaN for a tile without data."""
    return np.stack([np.fmin.reduce(dem, (1, 2)), np.fmax.reduce(dem, (1, 2))], -1)


def check_tile_size(size: int, smallest: int = 32) -> None:
    """Raise WrongShape unless ``size`` is a power of two from ``smallest`` to 512 px."""
    if size < smallest or size > 512 or size & (size - 1):
        valid = [str(2**k) for k in range(5, 10) if 2**k >= smallest]
        raise WrongShape(f"a tile of {size} px fits no network: choose {', '.join(valid)}")


def cut(scene: "xr.Dataset", size: int = 64, stride: int | None = None, max_nodata: float = 0.0) -> Tiles:
    """Cut a scene into square tiles, row by row from its upper left corner.

    Args:
        scene: ``rgb`` and ``dem`` on one grid; see :mod:`sat2dem_core.dataset.scenes`.
        size: px, a power of two from 32 to 512.
        stride: px between the corners of neighboring tiles; ``size``, so no overlap, when not given.
        max_nodata: largest share of NaN elevation in a tile; tiles with more are dropped and counted. NaN is never
            filled.

    Raises:
        WrongShape: the size is not such a power of two, or the stride not positive.
        NoTiles: the scene is smaller than a tile, or every tile has more nodata.

    >>> from sat2dem_core.dataset.scenes import open_scene
    >>> cut(open_scene(), 64).dem.shape
    (16, 64, 64)
    """
    from sat2dem_core.rasters.grids import ground_sampling_distance  # needs pyproj; tiles in memory do not

    check_tile_size(size)
    stride = size if stride is None else stride
    if stride < 1:
        raise WrongShape(f"a stride of {stride} px is too small: give 1 or more")
    name, height, width = scene.attrs.get("name", "scene"), scene.sizes["y"], scene.sizes["x"]
    if height < size or width < size:
        raise NoTiles(f"{name} is {height} x {width} px, smaller than one tile of {size} px: choose smaller tiles")
    dem = _windows(scene.dem.values, size, stride)
    keep = np.isnan(dem).mean((-2, -1)) <= max_nodata  # (rows, columns)
    if not keep.any():
        raise NoTiles(
            f"all {keep.size} tiles of {name} have more than {max_nodata:.0%} nodata: "
            "raise max_nodata, choose smaller tiles, or give a DEM that covers more"
        )
    origin = scene.attrs.get("origin", (0, 0))
    corners = np.argwhere(keep) * stride + origin
    return Tiles(
        rgb=np.ascontiguousarray(_windows(scene.rgb.values, size, stride)[keep]),
        dem=np.ascontiguousarray(dem[keep], dtype=np.float32),
        ids=tuple(f"{name}_r{row:04d}_c{column:04d}" for row, column in corners),
        corners=corners, gsd=ground_sampling_distance(scene), dropped=int((~keep).sum()),
    )


def _windows(array: np.ndarray, size: int, stride: int) -> np.ndarray:
    """All windows of an array (..., H, W) as (rows, columns, ..., size, size), without a copy."""
    views = np.lib.stride_tricks.sliding_window_view(array, (size, size), axis=(-2, -1))
    return np.moveaxis(views[..., ::stride, ::stride, :, :], (-4, -3), (0, 1))
