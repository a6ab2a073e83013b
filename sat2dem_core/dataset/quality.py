"""What a store holds, tile by tile, and which tiles to look at before training on them: flagged, never dropped."""

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from pyproj import Transformer
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from tqdm import tqdm

from sat2dem_core.dataset.grid import RESOLUTION, SIDE
from sat2dem_core.dataset.store import elevation_range, in_chunks, one_by_one, open_store
from sat2dem_core.terrain import hillshade

MORNING = 145.0, 45.0  # degrees: the sun over a northern country at 10:30, where a store does not tell it
REACH = 8  # px: the largest shift that is looked for
BROAD = 8.0  # px: shading is compared in what is finer than this, for colors vary broadly with the land's cover


@dataclass(frozen=True)
class Limits:
    """From where on a tile is flagged.

    Attributes:
        cloudy: share of the looks that clouds took.
        gaps: share of pixels without an image or without elevation.
        sea: share of open sea.
        shifted: px between image and elevation, believed where the shading's correlation is at least ``believed``.
        odd: how many robust standard deviations (1.4826 times the median absolute deviation) a tile's mean brightness
            or its steepest step lies above or below the store's median.
    """

    cloudy: float = 0.6
    gaps: float = 0.05
    sea: float = 0.5
    shifted: float = 1.5
    believed: float = 0.25
    odd: float = 6.0


def inspect(path: str | os.PathLike, limits: Limits = Limits(), progress: bool = True) -> pd.DataFrame:
    """A table with one row a tile.

    Columns: ``lon``, ``lat`` of the center; ``low``, ``mean``, ``high``, ``relief`` and ``step`` (the largest difference
    between neighboring pixels) in meters; ``brightness`` (0 to 255); ``cloud_share``, ``nodata_share``, ``sea_share``
    (NaN where the store does not tell); ``down`` and ``east``, by how many pixels the image lies off its elevation, and
    ``shading``, how well it then follows the shaded relief (see :func:`misregistration`); ``flagged``, the names of the
    limits that were passed.

    Raises:
        DamagedStore: see :func:`sat2dem_core.dataset.store.open_store`.
    """
    store = open_store(path)
    table = pd.DataFrame(
        [_measure(tile) for tile in tqdm(one_by_one(store), total=store.sizes["tile"], desc="inspecting", unit="tile", disable=not progress)],
        index=pd.Index(list(map(str, store.tile.values)), name="tile"),
    )
    for share in ("cloud_share", "nodata_share", "sea_share"):
        table[share] = store[share].values if share in store.coords else np.nan
    passed = {
        "cloudy": table.cloud_share > limits.cloudy, "gaps": table.nodata_share > limits.gaps, "sea": table.sea_share > limits.sea,
        "shifted": (np.hypot(table.down, table.east) > limits.shifted) & (table.shading >= limits.believed),
        "bright or dark": _robust(table.brightness) > limits.odd, "step": _robust(table.step) > limits.odd,
    }
    table["flagged"] = [", ".join(name for name, column in passed.items() if column[tile]) for tile in table.index]
    return table


def elevation_histogram(path: str | os.PathLike, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels lie how high: counts (bins) and limits (bins + 1) in meters."""
    store = open_store(path)
    edges = np.linspace(*elevation_range(store), bins + 1)
    counts = [np.histogram(chunk.dem.values, edges)[0] for chunk in in_chunks(store[["dem"]])]
    return np.sum(counts, axis=0), edges


def misregistration(rgb: np.ndarray, dem: np.ndarray, sun: tuple[float, float] = MORNING) -> tuple[float, float, float]:
    """By how much an image lies off its elevation, from the shading of the ground.

    Slopes that face the sun are bright. The image's brightness is compared with the relief lit by the same sun, shifted
    by up to ``REACH`` pixels; where they agree best, images and ground fit. On flat ground or under changing land
    cover the agreement is weak and the answer means little.

    Args:
        rgb: (3, H, W) uint8.
        dem: (H, W) meters, NaN for nodata.
        sun: azimuth, clockwise from north, and elevation, in degrees.

    Returns:
        Down the rows and along the columns in pixels, to a fraction of one, and the correlation there; NaN without
        relief or brightness to compare.
    """
    valid = ~np.isnan(dem)
    if not valid.any():
        return np.nan, np.nan, np.nan
    shade = hillshade(dem, (RESOLUTION, RESOLUTION), sun=sun)
    shade, light = (np.where(valid, array, np.nanmean(array[valid])) for array in (shade, rgb.mean(0)))
    shade, light = (np.where(valid, array - gaussian_filter(array, BROAD), 0) for array in (shade, light))
    inner = light[REACH:-REACH, REACH:-REACH]
    ones = np.ones_like(inner)
    energy = fftconvolve(shade**2, ones, mode="valid") * (inner**2).sum()
    if energy.max() < 1e-12:
        return np.nan, np.nan, np.nan
    match = fftconvolve(shade, inner[::-1, ::-1], mode="valid") / np.sqrt(energy.clip(1e-12))  # (2 REACH + 1)²
    row, column = np.unravel_index(match.argmax(), match.shape)
    down, east = row + _vertex(match[:, column], row), column + _vertex(match[row], column)
    return float(REACH - down), float(REACH - east), float(match[row, column])


def _vertex(values: np.ndarray, top: int) -> float:
    """Where between the samples the parabola through the largest and its neighbors has its summit."""
    if not 0 < top < len(values) - 1:
        return 0.0
    before, at, after = values[top - 1 : top + 2]
    return float((before - after) / (2 * (before - 2 * at + after)))


def _measure(tile: xr.Dataset) -> dict[str, float]:
    dem = tile.dem.values
    azimuth, altitude = (float(tile.coords[name]) if name in tile.coords else np.nan for name in ("sun_azimuth", "sun_elevation"))
    sun = MORNING if np.isnan(azimuth + altitude) else (azimuth, altitude)
    degrees = Transformer.from_crs(str(tile.crs.item()), "EPSG:4326", always_xy=True) if tile.crs.item() else None
    center = (tile.left.item() + SIDE / 2, tile.top.item() - SIDE / 2)
    lon, lat = degrees.transform(*center) if degrees else (np.nan, np.nan)
    measures = {"lon": lon, "lat": lat}
    if np.isnan(dem).all():
        return measures | dict.fromkeys(("low", "mean", "high", "relief", "step", "brightness", "down", "east", "shading"), np.nan)
    low, high = float(np.nanmin(dem)), float(np.nanmax(dem))
    step = max(float(np.nanmax(np.abs(np.diff(dem, axis=axis)), initial=0)) for axis in (0, 1))
    down, east, shading = misregistration(tile.rgb.values, dem, sun)
    return measures | {
        "low": low, "mean": float(np.nanmean(dem)), "high": high, "relief": high - low, "step": step,
        "brightness": float(tile.rgb.values.mean()), "down": down, "east": east, "shading": shading,
    }


def _robust(column: pd.Series) -> pd.Series:
    """Distance from the median in robust standard deviations; 0 where all are alike."""
    away = (column - column.median()).abs()
    return away / (1.4826 * away.median()) if away.median() > 0 else away * 0
