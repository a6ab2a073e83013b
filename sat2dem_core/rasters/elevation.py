"""Elevation in meters from a band of a raster, whatever its scale and unit, with NaN for what is no elevation."""

import os
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader

from sat2dem_core.errors import NoElevation
from sat2dem_core.rasters.fill import find_margin
from sat2dem_core.rasters.grids import Grid
from sat2dem_core.rasters.reader import (
    Raster, band_names, band_number, check_place, check_real, listed_bands, members, opened,
)
from sat2dem_core.terrain import HIGHEST, LOWEST

FOOT, SURVEY_FOOT = 0.3048, 1200 / 3937
UNITS = {  # as files name them, in meters
    1.0: ("", "m", "m.", "metre", "metres", "meter", "meters", "metre(s)", "meter(s)"),
    FOOT: ("ft", "foot", "feet", "international foot", "international feet", "'"),
    SURVEY_FOOT: ("us-ft", "ftus", "us survey foot", "us survey feet", "foot_us", "sft", "us_survey_foot"),
    0.1: ("dm", "decimeter", "decimetre", "decimeters", "decimetres"),
    0.01: ("cm", "centimeter", "centimetre", "centimeters", "centimetres"),
    0.001: ("mm", "millimeter", "millimetre", "millimeters", "millimetres"),
    1000.0: ("km", "kilometer", "kilometre", "kilometers", "kilometres"),
}
FEW = 0.01  # share of values that are no elevations, and differ, above which the whole raster is doubted
FILL_CHECK = 10**8  # px: the largest raster that is looked through for fill


@dataclass
class Elevation:
    """One band of elevation.

    Attributes:
        raster: the band.
        scale, offset: elevation in meters is ``scale`` times the stored value plus ``offset``.
        vertical: name of the vertical datum; empty if the file does not say.
    """

    raster: Raster
    scale: float
    offset: float
    vertical: str
    _tally: "_Tally" = field(default_factory=lambda: _Tally())

    @property
    def grid(self) -> Grid:
        """That of the raster, with north at the top."""
        return self.raster.grid.turned()

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """A window, (height, width) float32 meters, NaN where there is no elevation and beyond the raster."""
        return self.on(self.grid.window(row, column, height, width))

    def on(self, grid: Grid, finer: Resampling = Resampling.cubic) -> np.ndarray:
        """Elevation on another grid, (height, width) float32 meters; see :meth:`Raster.on`."""
        return self.raster.on(grid, finer, self._meters)[0]

    def _meters(self, values: np.ndarray) -> np.ndarray:
        meters = values * self.scale + self.offset
        possible = (meters >= LOWEST) & (meters <= HIGHEST)
        self._tally.add(values, possible)
        return np.where(possible, meters, np.nan)

    def check(self) -> None:
        """Warn of values that were read and are no elevations.

        Raises:
            NoElevation: they are too many, and too different, for voids; or nothing else was read.
        """
        tally, path = self._tally, self.raster.path
        if not tally.known:
            raise NoElevation(f"{path} is all nodata where it was read: give a DEM with elevation there")
        if not tally.refused:
            return
        share = tally.refused / tally.known
        extent = f"{tally.lowest:g}" + (f" to {tally.highest:g}" if tally.highest > tally.lowest else "")
        if share == 1 or (share > FEW and tally.lowest < tally.highest):
            raise NoElevation(
                f"{path} holds values from {extent}, which are not elevations in meters ({share:.0%} of the values): "
                "give a DEM, set the unit of its band with gdal_edit.py -units, or name its nodata value"
            )
        warnings.warn(
            f"{path}: {tally.refused:,} values of {extent} ({share:.2%}) are not elevations, and count as nodata",
            stacklevel=3,
        )


@dataclass
class _Tally:
    """Values that were read and are no elevations, in the file's own unit."""

    known: int = 0
    refused: int = 0
    lowest: float = np.inf
    highest: float = -np.inf

    def add(self, values: np.ndarray, possible: np.ndarray) -> None:
        wrong = values[~possible & ~np.isnan(values)]
        self.known += int(np.count_nonzero(possible)) + len(wrong)
        self.refused += len(wrong)
        if len(wrong):
            self.lowest = min(self.lowest, float(wrong.min()))
            self.highest = max(self.highest, float(wrong.max()))


def open_elevation(
    path: str | os.PathLike, band: int | str | None = None, nodata: float | str | None = "declared",
    placed: bool = True, looks_for_fill: bool = True,
) -> Elevation:
    """Open a DEM: a raster of one band, or a raster or container in which one is named ``elevation``.

    Scale and offset tags are applied, and feet become meters: as the band's unit says, or the vertical axis of a
    compound coordinate reference system.

    Args:
        band: number (from 1) or name of the band, or the name of a container's member.
        nodata: the value that means nodata; "declared" for what the file declares, None for no such value.
        placed: whether it must say where on Earth it lies.
        looks_for_fill: whether to look for undeclared fill, if the nodata value is the declared one.

    Raises:
        UnreadableRaster: the file does not exist or cannot be read.
        NoElevation: no band can be told to hold elevation, or its unit is none of length.
        MissingCRS: it does not say where on Earth it lies.
        UnsupportedImagery: it holds complex numbers.
    """
    found = members(path)
    if found:
        name = str(band or "elevation")
        if name not in found:
            raise NoElevation(f"{path} holds the rasters {', '.join(found)}: say which is elevation, with --band")
        path, band = found[name], None
    with opened(path) as file:
        number = _band(file, path, band)
        if placed:
            check_place(file, path)
        raster = Raster.of(file, path, (number,), nodata)
        check_real(raster)
        unit, vertical = _vertical(file, number, path)
        scale, offset = file.scales[number - 1] * unit, file.offsets[number - 1] * unit
    if looks_for_fill and nodata == "declared" and raster.grid.height * raster.grid.width <= FILL_CHECK:
        raster = _without_fill(raster)
    return Elevation(raster, scale, offset, vertical)


def _band(file: DatasetReader, path: object, band: int | str | None) -> int:
    if band is None:
        names = band_names(file)
        if file.count == 1:
            return 1
        if names.count("elevation") == 1:
            return names.index("elevation") + 1
        listed = listed_bands(file)
        raise NoElevation(f"{path} has {file.count} bands ({listed}): say which is elevation, with --band")
    number = band_number(file, band)
    if number is None:
        raise NoElevation(f"{path} has no band {band}: choose among its {file.count} ({listed_bands(file)})")
    return number


def _vertical(file: DatasetReader, number: int, path: object) -> tuple[float, str]:
    """The unit of a band's values in meters, and the name of their vertical datum."""
    stated, factor, datum = (file.units[number - 1] or "").strip(), None, ""
    if file.crs is not None:
        crs = CRS.from_user_input(file.crs)
        if crs.is_bound and crs.source_crs:
            crs = crs.source_crs
        if crs.is_compound:
            datum = crs.sub_crs_list[1].name
            factor = crs.sub_crs_list[1].axis_info[0].unit_conversion_factor
        elif len(crs.axis_info) == 3:
            datum, factor = f"ellipsoid of {crs.name}", crs.axis_info[2].unit_conversion_factor
    if stated or factor is None:
        factor = next((meters for meters, names in UNITS.items() if stated.lower() in names), None)
    if factor is None:
        raise NoElevation(
            f"{path}: the unit of band {number} is {stated!r}, which is none of length: give a DEM, or set its unit "
            "with gdal_edit.py -units m"
        )
    return factor, datum


def _without_fill(raster: Raster) -> Raster:
    """The raster with an undeclared margin of fill counted as nodata."""
    margin = find_margin(*raster.reduced())
    if margin is None or not margin.straight:
        return raster
    warnings.warn(
        f"{raster.path}: {margin.share:.0%} of it, at its border, is {margin.value:g} with straight edges, and counts "
        "as nodata; a nodata value of 'none' keeps it", stacklevel=3,
    )
    return replace(raster, fill=margin.value)
