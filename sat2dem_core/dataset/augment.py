"""Random views of a scene, for models that must work on other areas: other scales, rotations and light.

A network trained on one scene as it is learns that scene's colors, pixel size and relief. Here every training tile is
sampled at a random place, rotated by some degrees, at a random ground sampling distance, in other light. Two things
stay fixed. The direction of the light: a mirrored tile is lit from the wrong side, and a network that relies on shading
would turn valleys into ridges. Tiles are therefore mirrored only about the diagonal from north-west to south-east,
close to which the sun of a morning orbit stands. And the scale of relief: see :func:`relief_unit`.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.errors import NoTiles
from sat2dem_core.rasters.grids import ground_sampling_distance

GSD = 30.0  # meters: the ground sampling distance at which a unit of relief is a meter
HURST = 0.45  # how relief grows with scale; benchmarks/relief.py measures it
TURN = 25.0  # degrees: largest rotation


def relief_unit(gsd: float, hurst: float = HURST) -> float:
    """Meters in one unit of relief, at a ground sampling distance of ``gsd`` meters.

    A tile of a given number of pixels spans a larger area where pixels are larger, and more relief, but not in
    proportion: terrain is nearly self-affine, and its relief grows as the span to the power of the Hurst exponent
    (Mandelbrot 1975, doi 10.1073/pnas.72.10.3825). In this unit relief is similar at all scales, so that one network
    can predict it.

    >>> round(relief_unit(30.0), 2), round(relief_unit(120.0), 2)
    (1.0, 1.87)
    """
    return (gsd / GSD) ** hurst


def views(
    scene: xr.Dataset, count: int, size: int, finest: float, coarsest: float, seed: int = 0, plain: bool = False
) -> Tiles:
    """Sample tiles at random places of a scene; their ``dem`` is in units of relief above each tile's lowest point.

    Args:
        scene: ``rgb`` and ``dem``, lit from the south-east.
        count: number of tiles.
        size: px.
        finest, coarsest: range of ground sampling distances, meters; where a tile would not fit into the scene, the
            largest distance at which it does.
        plain: neither rotated, mirrored nor in other light, for validation.

    Raises:
        NoTiles: no place without nodata was found.
    """
    rng = np.random.default_rng(seed)
    pyramid, name = _Pyramid(scene), scene.attrs.get("name")
    rgb, relief, misses = [], [], 0
    ids: list[str] = []
    while len(ids) < count:
        window = _draw_window(pyramid.extent, size, (finest, coarsest), plain, rng)
        pixels, dem = pyramid.sample(window, size)
        if np.isnan(dem).any():
            misses += 1
            if misses > 50 * count + 1000:
                raise NoTiles(
                    f"{name or 'the scene'} has nodata wherever a tile of {size} px might lie: choose smaller tiles"
                )
            continue
        rgb.append((pixels if plain else _relit(pixels, rng)).round().clip(0, 255).astype(np.uint8))
        relief.append((dem - dem.min()) / relief_unit(window.gsd))
        ids.append(f"{name or 'scene'}_{window.south:.0f}m_{window.east:.0f}m_{window.gsd:.0f}m_{len(ids)}")
    return Tiles(np.stack(rgb), np.stack(relief).astype(np.float32), tuple(ids), np.zeros((count, 2), int), (GSD, GSD))


@dataclass(frozen=True)
class _Window:
    """Where a tile is sampled.

    Attributes:
        south, east: its center, meters from the scene's upper left corner.
        gsd: meters.
        turn: rotation, radians.
        mirrored: about the diagonal from north-west to south-east.
    """

    south: float
    east: float
    gsd: float
    turn: float
    mirrored: bool


def _draw_window(
    extent: tuple[float, float], size: int, gsds: tuple[float, float], plain: bool, rng: np.random.Generator
) -> _Window:
    """A random window that lies within the extent (south, east; meters) where it fits, and at its center otherwise."""
    finest, coarsest = gsds
    turn = 0.0 if plain else np.radians(rng.uniform(-TURN, TURN))
    reach = np.abs(np.cos(turn)) + np.abs(np.sin(turn))  # width of a rotated square, in units of its side
    fitting = 0.98 * min(extent) / (size * reach)
    gsd = np.exp(rng.uniform(np.log(finest), np.log(max(finest, min(coarsest, fitting)))))
    half = size * gsd * reach / 2
    south, east = (rng.uniform(half, side - half) if side > 2 * half else side / 2 for side in extent)
    return _Window(south, east, gsd, turn, mirrored=not plain and rng.random() < 0.5)


class _Pyramid:
    """A scene and its averages over squares of pixels, from which coarser views are sampled."""

    def __init__(self, scene: xr.Dataset):
        self.gsd = ground_sampling_distance(scene)
        image, dem = scene.rgb.values.astype(np.float32), scene.dem.values.astype(np.float32)
        self.levels = {1: (image, dem[None])}
        self.extent = dem.shape[0] * self.gsd[0], dem.shape[1] * self.gsd[1]  # south, east; meters

    def sample(self, window: _Window, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (3, size, size) and elevation (size, size) in the window, from the level next finer than its pixels."""
        down, along = self.gsd
        factor = max(1, int(window.gsd / max(down, along) + 1e-6))
        if factor not in self.levels:
            image, dem = self.levels[1]
            self.levels[factor] = _coarser(image, factor), _coarser(dem, factor)
        steps = (np.arange(size) + 0.5 - size / 2) * window.gsd
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        if window.mirrored:
            rows, columns = columns, rows
        south = window.south + rows * np.cos(window.turn) - columns * np.sin(window.turn)
        east = window.east + rows * np.sin(window.turn) + columns * np.cos(window.turn)
        image, dem = (
            _sample(level, south / (down * factor), east / (along * factor)) for level in self.levels[factor]
        )
        return image, dem[0]


def _coarser(bands: np.ndarray, factor: int) -> np.ndarray:
    """Averages over squares of pixels."""
    height, width = (side // factor * factor for side in bands.shape[1:])
    return bands[:, :height, :width].reshape(len(bands), height // factor, factor, width // factor, factor).mean((2, 4))


def _sample(bands: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values between pixels, at coordinates that count from the upper left corner of the upper left pixel."""
    grid = np.stack([2 * columns / bands.shape[2] - 1, 2 * rows / bands.shape[1] - 1], -1).astype(np.float32)
    tensors = torch.from_numpy(bands)[None], torch.from_numpy(grid)[None]
    return F.grid_sample(*tensors, mode="bilinear", padding_mode="border", align_corners=False)[0].numpy()


def _relit(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another contrast, exposure, color balance, haze and sensor noise: (3, T, T) from 0 to 255."""
    share = (pixels.clip(0, 255) / 255) ** np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.25))
    share = share * np.exp(rng.normal(0, 0.12, (3, 1, 1))) + rng.normal(0.02, 0.05) + rng.normal(0, 0.02, (3, 1, 1))
    return (255 * share + rng.normal(0, rng.uniform(0, 3), pixels.shape)).astype(np.float32)
