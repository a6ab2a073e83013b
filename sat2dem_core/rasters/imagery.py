"""Images of any size, grid and type, read in windows as networks need them: uint8 red, green, blue, square pixels."""

import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.warp import calculate_default_transform

from sat2dem_core.errors import MissingCRS, UnsupportedImagery
from sat2dem_core.rasters.fill import Margin, find_margin
from sat2dem_core.rasters.grids import Grid, center, convergence, is_geographic, pixel_size, square_size, utm_epsg
from sat2dem_core.rasters.reader import (
    Raster, band_names, band_number, check_place, check_real, has_place, listed_bands, opened,
)

COLORS = {"red": ("red", "r"), "green": ("green", "g"), "blue": ("blue", "b")}
NUMBERED = re.compile(r"(?:sr_)?b(0?\d{1,2}a?)")  # a mission's numbers: B4, B04, SR_B4, B8A
EARLY, LATE = (3, 2, 1), (4, 3, 2)  # red, green, blue of Landsat 4 to 7; of Landsat 8 and 9, and of Sentinel-2
MISSIONS = {  # in the names of files
    EARLY: re.compile(r"(?<![a-z0-9])(l[te]0[457]|le7|lt5|landsat[-_ ]?[457])", re.I),
    LATE: re.compile(r"(?<![a-z0-9])(lc0[89]|lc[89]|landsat[-_ ]?[89]|s2[abc]?|sentinel[-_ ]?2|hls)(?![a-z])", re.I),
}
MAX_FACTOR = 4.0  # how many times finer than the model's an image's pixels may be without a warning


@dataclass(frozen=True)
class Image:
    """An image on the grid that it is predicted on.

    Attributes:
        raster: its red, green and blue bands.
        grid: that it is predicted on.
        gsd: ground sampling distance, meters.
        place: longitude and latitude of the center, degrees; None without a CRS.
        north: direction in which the grid's columns point upwards, degrees clockwise from true north.
        stretch: values that become 0 and 255; None for uint8, which is used unchanged.
    """

    raster: Raster
    grid: Grid
    gsd: float
    place: tuple[float, float] | None
    north: float
    stretch: tuple[float, float] | None

    @property
    def path(self) -> str:
        return self.raster.path

    @property
    def bands(self) -> tuple[int, ...]:
        return self.raster.bands

    @property
    def warped(self) -> bool:
        """Whether the grid is not the file's own."""
        return self.grid != self.raster.grid

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A window: (3, height, width) uint8, and its valid pixels, (height, width) bool."""
        values, valid = self._read(row, column, height, width)
        return to_bytes(values, valid, self.stretch), valid

    def read_brightness(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The same in the file's own unit, or from black to white of the stretch: float32, positive where valid."""
        values, valid = self._read(row, column, height, width)
        low, high = self.stretch or (0.0, 1.0)
        share = (values.astype(np.float32) - low) / (high - low)
        dark = 1e-3 * float(np.abs(share[:, valid]).mean()) if valid.any() else 1.0  # water and shadow may be negative
        return np.where(valid, np.maximum(share, max(dark, 1e-9)), 0.0).astype(np.float32), valid

    def _read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if not self.warped:
            return self.raster.read(row, column, height, width)
        values = self.raster.on(self.grid.window(row, column, height, width))
        return values, np.isfinite(values).all(0)


def to_bytes(values: np.ndarray, valid: np.ndarray, stretch: tuple[float, float] | None) -> np.ndarray:
    """Values (bands, H, W) as uint8: stretched, or rounded where they are uint8 already; 0 where not ``valid``."""
    if values.dtype == np.uint8 and stretch is None:
        return values
    low, high = stretch or (0.0, 255.0)
    share = (np.where(valid, values, low).astype(np.float32) - low) / (high - low)
    return (share.clip(0, 1) * 255).round().astype(np.uint8)


def open_image(
    path: str | os.PathLike, finest: float, coarsest: float, *, bands: Sequence[int | str] | None = None,
    stretch: tuple[float, float] | None = None, nodata: float | str | None = "declared", gsd: float | None = None,
    as_bytes: bool = True,
) -> Image:
    """Examine an image, and choose the grid that it is predicted on.

    That is the image's own grid if its pixels are square, north is up, and they are of a size that the model was
    trained on. Otherwise it is a grid of the nearest such size, in the image's CRS or, if that is rotated or not in
    meters, in UTM.

    Args:
        finest, coarsest: ground sampling distances that the model was trained on, meters.
        bands: numbers (from 1) or names of the red, green and blue bands; by default as the file names them, or 1, 2, 3
            if it has no others.
        stretch: values that become 0 and 255; by default none for uint8, else the 2nd and 98th percentile.
        nodata: nodata value of the image; by default the one that the file declares and a margin of undeclared fill,
            and None for no nodata value.
        gsd: ground sampling distance to predict at, meters; for an image without a CRS or geotransform, which needs it,
            the size of its pixels.
        as_bytes: whether it is going to be read as uint8, for which other types need a stretch.

    Raises:
        UnreadableRaster: the file does not exist or is no raster.
        MissingCRS: the image does not say where on Earth it lies, and ``gsd`` is not given.
        UnsupportedImagery: the three bands cannot be found, hold complex numbers or no valid pixel, or the stretch is
            empty.
    """
    with opened(path) as file:
        raster = Raster.of(file, path, find_bands(file, path, bands), nodata)
        check_real(raster)
        if gsd is None or has_place(file):
            _check_place(file, path)
    if raster.grid.crs is None:
        assert gsd is not None
        grid = Grid(None, (gsd, 0.0, 0.0, 0.0, -gsd, 0.0), *raster.grid.shape)
        image = Image(replace(raster, grid=grid), grid, _given_size(path, gsd), None, 0.0, None)
    else:
        grid = _choose_grid(path, raster.grid, finest, coarsest, gsd)
        place = grid.crs, grid.affine, grid.width, grid.height
        image = Image(raster, grid, square_size(pixel_size(*place)), center(*place), convergence(grid), None)
    return _look_at(image, nodata == "declared", stretch, as_bytes)


def _check_place(file: DatasetReader, path: object) -> None:
    try:
        check_place(file, path)
    except MissingCRS as error:
        if has_place(file):
            raise
        advice = "or give the size of its pixels in meters (--gsd) for a DEM without coordinates"
        raise MissingCRS(f"{error}; {advice}") from error


# Bands


def find_bands(file: DatasetReader, path: object, bands: Sequence[int | str] | None = None) -> tuple[int, int, int]:
    """Numbers of the red, green and blue bands of an open file, from 1.

    Args:
        bands: numbers or names; by default, as the file names them.

    Raises:
        UnsupportedImagery: there are no such bands, or their names fit several missions.
    """
    if bands is not None:
        chosen = [_chosen_band(file, path, str(band)) for band in bands]
        if len(chosen) != 3:
            raise UnsupportedImagery(f"{len(chosen)} band(s) given for {path}: give three, red, green and blue")
        red, green, blue = chosen
        return red, green, blue
    if file.count == 1 and file.colorinterp[0] == ColorInterp.palette:
        raise UnsupportedImagery(
            f"{path} has one band of palette indices: turn them into colors first, with gdal_translate -expand rgb"
        )
    if file.count < 3:
        raise UnsupportedImagery(
            f"{path} has {file.count} band{'s' * (file.count > 1)}, and red, green and blue are needed: stack them in "
            "one file first, with gdalbuildvrt -separate image.vrt red.tif green.tif blue.tif"
        )
    named = [_color_band(file, color) for color in COLORS]
    numbered = _numbered_bands(file, path)
    if None in named and numbered is None and (file.count == 3 or _three_and_alpha(file)):
        return 1, 2, 3
    red, green, blue = numbered or named if None in named else named  # type: ignore[assignment]
    if red and green and blue:
        return red, green, blue
    raise UnsupportedImagery(
        f"{path} has {file.count} bands, and their names do not include red, green and blue: give their numbers, such "
        "as --bands 4,3,2"
    )


def _three_and_alpha(file: DatasetReader) -> bool:
    return file.count == 4 and ColorInterp.alpha in file.colorinterp


def _color_band(file: DatasetReader, color: str) -> int | None:
    """The first band with a color's name, else the first that the file declares as this color."""
    named = [number for number, name in enumerate(band_names(file), 1) if name in COLORS[color]]
    if not named and not any(NUMBERED.fullmatch(name) for name in band_names(file)):
        named = [number for number, kind in enumerate(file.colorinterp, 1) if kind.name == color]
    return next(iter(named), None)


def _numbered_bands(file: DatasetReader, path: object) -> tuple[int, int, int] | None:
    """The bands of red, green and blue by the numbers of a mission; None where bands are not named by numbers."""
    matches = {number: NUMBERED.fullmatch(name) for number, name in enumerate(band_names(file), 1)}
    texts = {match[1]: number for number, match in matches.items() if match}
    if len(texts) < 3:
        return None
    position = {int(text.rstrip("a")): number for text, number in texts.items() if not text.endswith("a")}
    order = _mission(file, path, texts, set(position))
    if order is None:
        names = ", ".join(file.descriptions[number - 1] or "" for number in texts.values())
        raise UnsupportedImagery(
            f"{path} has the bands {names}, which fit several missions: give red, green and blue, for Landsat 8 and 9 "
            "and Sentinel-2 as --bands " + ",".join(str(position.get(number, "?")) for number in LATE)
            + ", for Landsat 4 to 7 as --bands " + ",".join(str(position.get(number, "?")) for number in EARLY)
        )
    if not set(order) <= position.keys():
        raise UnsupportedImagery(
            f"{path} lacks band " + ", ".join(str(number) for number in order if number not in position)
            + " of its mission: give the numbers of red, green and blue with --bands"
        )
    red, green, blue = (position[number] for number in order)
    return red, green, blue


def _mission(file: DatasetReader, path: object, texts: Iterable[str], numbers: set[int]) -> tuple[int, ...] | None:
    """The numbers of red, green and blue in the mission of an image; None where it cannot be told."""
    surface = any(name.startswith("sr_") for name in band_names(file))
    if any(text.startswith("0") for text in texts) or "8a" in texts or numbers & {9, 10, 11, 12}:
        return LATE
    if surface and 6 in numbers:
        return LATE  # the surface product of Landsat 4 to 7 has no band 6
    if surface and {5, 7} <= numbers:
        return EARLY
    stated = " ".join([Path(str(path)).name, *map(str, file.tags().values())])
    fitting = [order for order, pattern in MISSIONS.items() if pattern.search(stated)]
    return fitting[0] if len(fitting) == 1 else None


def _chosen_band(file: DatasetReader, path: object, band: str) -> int:
    text, number = band.strip().lower(), band_number(file, band)
    if number is None and text in COLORS:
        number = _color_band(file, text)
        if number is None and (numbered := _numbered_bands(file, path)):
            number = numbered[list(COLORS).index(text)]
    if number is None:
        raise UnsupportedImagery(f"{path} has no band {band}: choose among its {file.count} ({listed_bands(file)})")
    return number


# Grids


def _given_size(path: object, gsd: float) -> float:
    """The size of the pixels of an image without coordinates, meters."""
    warnings.warn(
        f"{path} has no coordinates, so the DEM will have none; its heights assume that a pixel is {gsd:g} m wide and, "
        "unless --sun is given, that the sun is in the south-east", stacklevel=3,
    )
    return gsd


def _choose_grid(path: object, own: Grid, finest: float, coarsest: float, gsd: float | None) -> Grid:
    """The image's own grid, or one of square pixels of a size that the model was trained on."""
    own = own.turned()
    down, along = pixel_size(own.crs, own.affine, own.width, own.height)
    size, ratio = square_size((down, along)), along / down
    target = gsd or min(max(size, finest), coarsest)
    if not 1 / MAX_FACTOR <= size / target <= 1.5:
        effect = "which loses finer detail" if size < target else "which adds no detail, so expect little"
        warnings.warn(
            f"{path} has pixels of {size:.3g} m, and the model was trained on {finest:.3g} to {coarsest:.3g} m: the "
            f"image is resampled to {target:.3g} m, {effect}", stacklevel=3,
        )
    square = own.upright and 0.97 < ratio < 1.03 and not is_geographic(own.crs)
    if not square:
        return _utm_grid(own, target)
    return own if abs(size / target - 1) < 0.01 else _scaled_grid(own, target / size)


def _scaled_grid(own: Grid, factor: float) -> Grid:
    """The image's grid with pixels that are ``factor`` times larger."""
    if abs(factor - round(factor)) < 0.01 * factor:  # 10 m to 30 m is three by three, though the projection stretches
        factor = round(factor)
    height, width = (math.ceil(side / factor - 0.01) for side in own.shape)
    return own.scaled(factor, height, width)


def _utm_grid(own: Grid, size: float) -> Grid:
    """A grid of the image's UTM zone that covers the image, with pixels of ``size`` meters."""
    utm = CRS.from_epsg(int(utm_epsg(*center(own.crs, own.affine, own.width, own.height))))
    corners = [own.affine * corner for corner in ((0, 0), (own.width, 0), (0, own.height), (own.width, own.height))]
    xs, ys = zip(*corners)
    bounds = min(xs), min(ys), max(xs), max(ys)
    transform, width, height = calculate_default_transform(
        CRS.from_wkt(own.crs), utm, own.width, own.height, *bounds, resolution=size
    )
    return Grid(utm.to_wkt(), tuple(transform)[:6], height, width)


# Values


def _look_at(image: Image, looks_for_fill: bool, stretch: tuple[float, float] | None, as_bytes: bool) -> Image:
    """The image with its stretch, and without undeclared fill; warns if the values look wrong."""
    path, (values, valid) = image.path, image.raster.reduced()
    if looks_for_fill and (margin := find_margin(values, valid)):
        warn_of_margin(path, margin, "--nodata none")
        if margin.straight:
            image = replace(image, raster=replace(image.raster, fill=margin.value))
            valid &= ~(values == margin.value).all(0)
    if not valid.any():
        raise UnsupportedImagery(f"{path} has no valid pixel: give another image, or another nodata value")
    check_stretch(path, stretch)
    if stretch is None and as_bytes and image.raster.dtype != "uint8":
        stretch = _percentiles(path, values[:, valid])
    red, _, blue = values[:, valid].astype(np.float32)
    if (blue > red).mean() > 0.9:
        warnings.warn(
            f"{path}: blue is brighter than red almost everywhere, so the band order may be wrong; bands "
            f"{', '.join(map(str, image.bands))} are used as red, green and blue", stacklevel=3,
        )
    return replace(image, stretch=stretch)


def check_stretch(path: object, stretch: tuple[float, float] | None) -> None:
    """Check that a stretch, if there is one, rises.

    Raises:
        UnsupportedImagery: it does not.
    """
    if stretch is not None and not stretch[0] < stretch[1]:
        raise UnsupportedImagery(f"{path}: stretch={stretch} must go from a lower to a higher value")


def warn_of_margin(path: object, margin: Margin, keep: str) -> None:
    """Say that a margin counts as nodata, or that it might be some.

    Args:
        keep: how to keep it as data.
    """
    what = f"{path}: {margin.share:.0%} of it, at its border, is {margin.value:g} in every band"
    if margin.straight:
        text = f"{what} with straight edges, and counts as nodata; {keep} keeps it"
    else:
        text = f"{what}: unless that is snow, cloud or water, give {margin.value:g} as the nodata value"
    warnings.warn(text, stacklevel=4)


def _percentiles(path: object, values: np.ndarray) -> tuple[float, float]:
    """The 2nd and 98th percentile of values, which become black and white."""
    low, high = (float(value) for value in np.percentile(values, (2, 98)))
    if low == high:
        raise UnsupportedImagery(f"{path} is {low:g} almost everywhere: give an image with contrast")
    warnings.warn(
        f"{path} holds {values.dtype}: its 2nd and 98th percentile, {low:.4g} and {high:.4g}, become black and "
        "white; choose other values with --stretch", stacklevel=4,
    )
    return low, high
