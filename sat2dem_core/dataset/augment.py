"""Views of a scene for a model that is to work elsewhere: other scales, turns and light, with the sun where it was.

A network trained on one scene as it is learns that scene's colors, pixel size and relief. Here every training tile is
drawn anew from a random place, turned by some degrees, at a random ground sampling distance, in other light. Two things
are kept. The sun: a mirrored tile is lit from the wrong side, and a network that trusts shading would turn valleys into
ridges, so tiles are mirrored only about the diagonal from north-west to south-east, near which the morning sun of an
orbiting camera stands. And the scale of relief: see :func:`relief_unit`.
"""

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.errors import NoTiles
from sat2dem_core.rasters.grids import ground_sampling_distance

GSD = 30.0  # meters: where a unit of relief is a meter
HURST = 0.45  # how relief grows with scale; benchmarks/relief.py measures it
TURN = 25.0  # degrees


def relief_unit(gsd: float, hurst: float = HURST) -> float:
    """Meters that a unit of relief stands for where a pixel is ``gsd`` meters wide.

    A tile of so many pixels spans more ground where pixels are larger, and more relief, but not in proportion: terrain
    is nearly self-affine, its relief growing as the span to the power of the Hurst exponent (Mandelbrot 1975,
    doi 10.1073/pnas.72.10.3825). Measured so, relief is alike at all scales, and one network can predict it.

    >>> round(relief_unit(30.0), 2), round(relief_unit(120.0), 2)
    (1.0, 1.87)
    """
    return (gsd / GSD) ** hurst


def views(
    scene: xr.Dataset, count: int, size: int, finest: float, coarsest: float, seed: int = 0, plain: bool = False
) -> Tiles:
    """Draw tiles from random places of a scene, in units of relief above each one's lowest point.

    Args:
        scene: ``rgb`` and ``dem``, its sun in the south-east.
        count: how many.
        size: px.
        finest, coarsest: ground sampling distances to draw from, meters; where a tile would not fit, the largest that
            does.
        plain: not turned, mirrored or relit, to validate with.

    Raises:
        NoTiles: no place without nodata was found.
    """
    rng, (down, along) = np.random.default_rng(seed), ground_sampling_distance(scene)
    image, dem = scene.rgb.values.astype(np.float32), scene.dem.values.astype(np.float32)
    extent = dem.shape[0] * down, dem.shape[1] * along
    pyramid = {}
    rgb, heights, misses = [], [], 0
    ids: list[str] = []
    while len(ids) < count:
        turn = 0.0 if plain else np.radians(rng.uniform(-TURN, TURN))
        reach = np.abs(np.cos(turn)) + np.abs(np.sin(turn))  # of a turned square, in its sides
        fitting = 0.98 * min(extent) / (size * reach)
        gsd = np.exp(rng.uniform(np.log(finest), np.log(max(finest, min(coarsest, fitting)))))
        half = size * gsd * reach / 2
        center = [rng.uniform(half, side - half) if side > 2 * half else side / 2 for side in extent]
        factor = max(1, int(gsd / max(down, along) + 1e-6))
        if factor not in pyramid:
            pyramid[factor] = _coarser(image, factor), _coarser(dem[None], factor)
        steps = (np.arange(size) + 0.5 - size / 2) * gsd
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        if not plain and rng.random() < 0.5:
            rows, columns = columns, rows
        south = center[0] + rows * np.cos(turn) - columns * np.sin(turn)
        east = center[1] + rows * np.sin(turn) + columns * np.cos(turn)
        pixels, ground = (_sample(level, south / (down * factor), east / (along * factor)) for level in pyramid[factor])
        if np.isnan(ground).any():
            misses += 1
            if misses > 50 * count + 1000:
                name = scene.attrs.get("name", "the scene")
                raise NoTiles(f"{name} has nodata wherever a tile of {size} px might lie: choose smaller tiles")
            continue
        rgb.append((pixels if plain else _relit(pixels, rng)).round().clip(0, 255).astype(np.uint8))
        heights.append((ground[0] - ground.min()) / relief_unit(gsd))
        ids.append(f"{scene.attrs.get('name', 'scene')}_{center[0]:.0f}m_{center[1]:.0f}m_{gsd:.0f}m_{len(ids)}")
    return Tiles(np.stack(rgb), np.stack(heights).astype(np.float32), tuple(ids), np.zeros((count, 2), int), (GSD, GSD))


def _coarser(bands: np.ndarray, factor: int) -> np.ndarray:
    """Averages over squares of pixels."""
    height, width = (side // factor * factor for side in bands.shape[1:])
    return bands[:, :height, :width].reshape(len(bands), height // factor, factor, width // factor, factor).mean((2, 4))


def _sample(bands: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values at places between pixels, whose upper left corner is (0, 0)."""
    grid = np.stack([2 * columns / bands.shape[2] - 1, 2 * rows / bands.shape[1] - 1], -1).astype(np.float32)
    tensors = torch.from_numpy(bands)[None], torch.from_numpy(grid)[None]
    return F.grid_sample(*tensors, mode="bilinear", padding_mode="border", align_corners=False)[0].numpy()


def _relit(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another contrast, exposure, color balance, haze and sensor noise: (3, T, T) from 0 to 255."""
    share = (pixels.clip(0, 255) / 255) ** np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.25))
    share = share * np.exp(rng.normal(0, 0.12, (3, 1, 1))) + rng.normal(0.02, 0.05) + rng.normal(0, 0.02, (3, 1, 1))
    return (255 * share + rng.normal(0, rng.uniform(0, 3), pixels.shape)).astype(np.float32)
