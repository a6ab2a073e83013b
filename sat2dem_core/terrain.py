"""Slope, aspect, roughness and hillshade of elevation, from its true ground sampling distance.

Those of tensors take elevation (..., H, W) in meters with NaN for nodata, and return NaN wherever the 3 x 3 window is
not complete, which includes the outermost pixels. Gradients follow Horn (1981), doi 10.1109/PROC.1981.11918, as in
GDAL and xdem.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = -500.0, 9000.0  # meters: all land on Earth lies in between
Side = float | Tensor  # of pixels on the ground: of all, or of those of each row, (H, 1)
SUN = 315.0, 45.0  # azimuth and elevation of the sun of cartographers, degrees


def gradient(dem: Tensor, gsd: tuple[Side, Side]) -> tuple[Tensor, Tensor]:
    """Rise over run, to the south and to the east.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters; each a number, or one for each row,
            (H, 1), as of a raster in degrees that spans latitudes.
    """
    # Differences before sums: sums of elevations would lose digits.
    down, along = dem[..., 2:, :] - dem[..., :-2, :], dem[..., 2:] - dem[..., :-2]
    south = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / (8 * _inner(gsd[0]))
    east = (along[..., :-2, :] + 2 * along[..., 1:-1, :] + along[..., 2:, :]) / (8 * _inner(gsd[1]))
    hole = dem[..., 1:-1, 1:-1].isnan()  # Horn's window leaves the middle out, but nodata has no slope
    south, east = (F.pad(part.masked_fill(hole, torch.nan), (1, 1, 1, 1), value=torch.nan) for part in (south, east))
    return south, east


def _inner(side: Side) -> Side:
    """Of the rows that have neighbors above and below."""
    return side[1:-1] if isinstance(side, Tensor) else side


def slope(dem: Tensor, gsd: tuple[Side, Side]) -> Tensor:
    """Steepness in percent: 100 is 45 degrees.

    >>> slope(torch.tensor([[[0.0, 3.0, 6.0]] * 3]), (30.0, 30.0))[0, 1, 1]  # 3 m up for each 30 m
    tensor(10.)
    """
    return 100 * torch.hypot(*gradient(dem, gsd))


def aspect(dem: Tensor, gsd: tuple[Side, Side]) -> Tensor:
    """Downhill direction, degrees clockwise from north, 0 to 360; NaN on level terrain."""
    south, east = gradient(dem, gsd)
    downhill = torch.atan2(-east, south).rad2deg() % 360
    return downhill.masked_fill((south == 0) & (east == 0), torch.nan)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """The smaller angle between two directions, degrees, 0 to 180."""
    return 180 - (180 - (a - b).abs() % 360).abs()


def roughness(dem: Tensor) -> Tensor:
    """Highest minus lowest elevation of each 3 x 3 window, meters (Dartnell 2000)."""
    if min(dem.shape[-2:]) < 3:
        return torch.full_like(dem, torch.nan)
    flat = dem.reshape(-1, 1, *dem.shape[-2:])
    inner = F.max_pool2d(flat, 3, 1) + F.max_pool2d(-flat, 3, 1)  # NaN in a window makes it NaN
    return F.pad(inner, (1, 1, 1, 1), value=torch.nan).reshape(dem.shape)


def level(dem: Tensor) -> Tensor:
    """Where a 3 x 3 window has no relief at all: water, in elevation models such as GLO-30 with levelled lakes."""
    return roughness(dem) == 0


def hillshade(
    dem: np.ndarray, gsd: tuple[float, float], exaggeration: float = 1.0, sun: tuple[float, float] = SUN
) -> np.ndarray:
    """Brightness of the terrain under the sun: (H, W) meters to (H, W) from 0 to 1; NaN stays NaN.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
        exaggeration: factor on the elevations.
        sun: azimuth, clockwise from north, and elevation, in degrees.

    >>> hillshade(np.full((2, 2), 800.0), (30.0, 30.0)).round(2)
    array([[0.71, 0.71],
           [0.71, 0.71]])
    """
    filled = np.where(np.isnan(dem), np.nanmean(dem), dem) * exaggeration
    south, east = np.gradient(filled, *gsd)  # rise over run
    azimuth, altitude = np.radians(sun)
    # Not matplotlib's LightSource, which stretches each picture's contrast: flat predictions would look rugged.
    towards_sun = np.cos(altitude) * (south * np.cos(azimuth) - east * np.sin(azimuth)) + np.sin(altitude)
    shade = (towards_sun / np.sqrt(1 + south**2 + east**2)).clip(0, 1)
    return np.where(np.isnan(dem), np.nan, shade)
