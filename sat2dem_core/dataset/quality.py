"""Statistics of a store's tiles, and which tiles to look at before training on them: flagged, never dropped."""

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from tqdm import tqdm

from sat2dem_core.dataset.grid import RESOLUTION, SIDE
from sat2dem_core.dataset.store import elevation_range, in_order, one_by_one, open_store
from sat2dem_core.rasters.grids import to_degrees
from sat2dem_core.terrain import hillshade

MORNING = 145.0, 45.0  # degrees: the sun at 10:30 in the mid-northern latitudes, for stores without sun angles
REACH = 8  # px: the largest shift that is searched
BROAD = 8.0  # px: variation broader than this is removed before comparison, because land cover causes it


@dataclass(frozen=True)
class Limits:
    """The values above which a tile is flagged.

    Attributes:
        cloudy: share of the observed pixels that clouds hid.
        gaps: share of pixels without an image or without elevation.
        sea: share of open sea.
        shifted: px between image and elevation, where the shading's correlation is at least ``believed``.
        odd: distance of a tile's mean brightness or largest step from the store's median, in robust standard deviations
            (1.4826 times the median absolute deviation).
    """

    cloudy: float = 0.6
    gaps: float = 0.05
    sea: float = 0.5
    shifted: float = 1.5
    believed: float = 0.25
    odd: float = 6.0


def inspect(path: str | os.PathLike, limits: Limits = Limits(), progress: bool = True) -> pd.DataFrame:
    """A table with one row per tile.

    Columns: ``lon``, ``lat`` of the center; ``low``, ``mean``, ``high``, ``relief`` and ``step`` (the largest
    difference between neighboring pixels) in meters; ``brightness`` (0 to 255); ``cloud_share``, ``nodata_share``,
    ``sea_share`` (NaN where the store has none); ``down`` and ``east``, the shift of the image against its elevation in
    pixels, and ``shading``, its correlation with the shaded relief at that shift (see :func:`misregistration`);
    ``flagged``, the names of the limits that the tile exceeds.

    Raises:
        DamagedStore: see :func:`sat2dem_core.dataset.store.open_store`.
    """
    store = open_store(path)
    count = store.sizes["tile"]
    tiles = tqdm(one_by_one(store), total=count, desc="inspecting", unit="tile", disable=not progress)
    names = pd.Index(list(map(str, store.tile.values)), name="tile")
    table = pd.DataFrame([_measure(tile) for tile in tiles], index=names)
    for share in ("cloud_share", "nodata_share", "sea_share"):
        table[share] = store[share].values if share in store.coords else np.nan
    table["flagged"] = _flags(table, limits)
    return table


def _flags(table: pd.DataFrame, limits: Limits) -> list[str]:
    """For each tile the names of the limits that it exceeds, separated by commas."""
    exceeded = pd.DataFrame({
        "cloudy": table.cloud_share > limits.cloudy,
        "gaps": table.nodata_share > limits.gaps,
        "sea": table.sea_share > limits.sea,
        "shifted": (np.hypot(table.down, table.east) > limits.shifted) & (table.shading >= limits.believed),
        "bright or dark": _robust_distance(table.brightness) > limits.odd,
        "step": _robust_distance(table.step) > limits.odd,
    })
    return [", ".join(exceeded.columns[row]) for row in exceeded.values]


def elevation_histogram(path: str | os.PathLike, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of all elevations of a store: counts (bins) and limits (bins + 1) in meters."""
    store = open_store(path)
    edges = np.linspace(*elevation_range(store), bins + 1)
    counts = [np.histogram(some.dem.values, edges)[0] for some in in_order(store[["dem"]])]
    return np.sum(counts, axis=0), edges


def misregistration(rgb: np.ndarray, dem: np.ndarray, sun: tuple[float, float] = MORNING) -> tuple[float, float, float]:
    """Estimate the shift of an image against its elevation from the shading of slopes.

    Slopes that face the sun are bright. The image's brightness is correlated with the relief lit by the same sun,
    shifted by up to ``REACH`` pixels; the shift with the highest correlation is returned. On flat terrain or under
    varied land cover the correlation is low and the shift means little.

    Args:
        rgb: (3, H, W) uint8.
        dem: (H, W) meters, NaN for nodata.
        sun: azimuth, clockwise from north, and elevation, in degrees.

    Returns:
        The shift down the rows and along the columns, in fractions of pixels, and the correlation there; NaN where
        relief or brightness does not vary.
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
    correlation = fftconvolve(shade, inner[::-1, ::-1], mode="valid") / np.sqrt(energy.clip(1e-12))  # (2 REACH + 1)²
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    down, east = row + _vertex(correlation[:, column], row), column + _vertex(correlation[row], column)
    return float(REACH - down), float(REACH - east), float(correlation[row, column])


def _vertex(values: np.ndarray, top: int) -> float:
    """Offset of the maximum from the largest sample, by the parabola through it and its neighbors."""
    if not 0 < top < len(values) - 1:
        return 0.0
    before, at, after = values[top - 1 : top + 2]
    return float((before - after) / (2 * (before - 2 * at + after)))


def _measure(tile: xr.Dataset) -> dict[str, float]:
    """One row of :func:`inspect`; NaN for a tile without elevation."""
    dem = tile.dem.values
    lon, lat = _center(tile)
    if np.isnan(dem).all():
        columns = ("low", "mean", "high", "relief", "step", "brightness", "down", "east", "shading")
        return {"lon": lon, "lat": lat} | dict.fromkeys(columns, np.nan)
    low, high = float(np.nanmin(dem)), float(np.nanmax(dem))
    step = max(float(np.nanmax(np.abs(np.diff(dem, axis=axis)), initial=0)) for axis in (0, 1))
    down, east, shading = misregistration(tile.rgb.values, dem, _sun(tile))
    return {
        "lon": lon, "lat": lat, "low": low, "mean": float(np.nanmean(dem)), "high": high, "relief": high - low,
        "step": step, "brightness": float(tile.rgb.values.mean()), "down": down, "east": east, "shading": shading,
    }


def _center(tile: xr.Dataset) -> tuple[float, float]:
    """Longitude and latitude of a tile's center; NaN without a CRS."""
    crs = str(tile.crs.item())
    if not crs:
        return np.nan, np.nan
    lon, lat = to_degrees(crs).transform(tile.left.item() + SIDE / 2, tile.top.item() - SIDE / 2)
    return lon, lat


def _sun(tile: xr.Dataset) -> tuple[float, float]:
    """Azimuth and elevation of the sun in degrees; ``MORNING`` if the tile has none."""
    if not {"sun_azimuth", "sun_elevation"} <= set(tile.coords):
        return MORNING
    sun = float(tile.sun_azimuth), float(tile.sun_elevation)
    return MORNING if np.isnan(sun).any() else sun


def _robust_distance(column: pd.Series) -> pd.Series:
    """Distance from the median in robust standard deviations; 0 where more than half of the values are the same."""
    distance = (column - column.median()).abs()
    return distance / (1.4826 * distance.median()) if distance.median() > 0 else distance * 0
