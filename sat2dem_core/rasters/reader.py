"""An image of any size, grid and type, read in windows as a network needs it: uint8 red, green, blue on square pixels.

No image is loaded whole: GDAL warps the pixels of a window when it reads them. So an :class:`Image` is a few numbers,
which travel to other processes as they are.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from sat2dem_core.errors import MissingCRS, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.grids import center, pixel_size, square_size, utm_epsg

NAMES = {  # how files and missions name their bands
    "red": ("red", "b4", "b04", "sr_b4", "r"),
    "green": ("green", "b3", "b03", "sr_b3", "g"),
    "blue": ("blue", "b2", "b02", "sr_b2", "b"),
}
SAMPLE = 1024  # px: side of the reduced picture that the stretch and the checks are computed from
MAX_FACTOR = 4.0  # how many times finer than the model's an image's pixels may be without a warning


@dataclass(frozen=True)
class Image:
    """An image on the grid that it is predicted on.

    Attributes:
        path: of the file.
        bands: numbers of the red, green and blue bands in the file, from 1.
        crs, transform, height, width: the grid, as WKT and affine numbers; ``crs`` is None for an image without one.
        gsd: ground sampling distance, meters.
        latitude: of the center, degrees; None without a CRS.
        nodata: the nodata value, which counts where all bands have it; None for no such value.
        stretch: values that become 0 and 255; None for uint8, which is used unchanged.
        warped: whether the grid differs from the file's.
    """

    path: str
    bands: tuple[int, int, int]
    crs: str | None
    transform: tuple[float, ...]
    height: int
    width: int
    gsd: float
    latitude: float | None
    nodata: float | None
    stretch: tuple[float, float] | None
    warped: bool

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A window: (3, height, width) uint8, and its valid pixels, (height, width) bool."""
        window = Window(column, row, width, height)
        with rasterio.open(self.path) as file:
            if not self.warped:
                return self._stretched(*self._masked(file, window=window))
            alpha = self.nodata is None and not any(color == ColorInterp.alpha for color in file.colorinterp)
            with WarpedVRT(
                file, crs=self.crs, transform=Affine(*self.transform), height=self.height, width=self.width,
                src_nodata=self.nodata, nodata=self.nodata, add_alpha=alpha, resampling=self._resampling(file),
                UNIFIED_SRC_NODATA="YES",  # a pixel is nodata only where all bands are
            ) as grid:
                return self._stretched(*self._masked(grid, window=window))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole file, reduced to SAMPLE px a side: (3, h, w) of the file's type, and its valid pixels (h, w)."""
        with rasterio.open(self.path) as file:
            share = min(1.0, SAMPLE / max(file.height, file.width))
            shape = math.ceil(file.height * share), math.ceil(file.width * share)
            return self._masked(file, out_shape=(3, *shape))

    def _resampling(self, file: DatasetReader) -> Resampling:
        """The average where pixels grow, so that no pixel of the file is skipped."""
        own = square_size(pixel_size(file.crs, file.transform, file.width, file.height))
        return Resampling.average if self.gsd > 1.01 * own else Resampling.cubic

    def _masked(self, file: DatasetReader, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        try:
            values = file.read(self.bands, **how)
            if "out_shape" in how:
                how["out_shape"] = how["out_shape"][1:]
            valid = np.ones(values.shape[1:], bool)
            for number, color in enumerate(file.colorinterp, 1):
                if color == ColorInterp.alpha:
                    valid &= file.read(number, **how) > 0
        except RasterioError as error:
            raise _unreadable(self.path, error) from error
        if self.nodata is not None and not math.isnan(self.nodata):
            valid &= (values != self.nodata).any(0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(0)
        return values, valid

    def _stretched(self, values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.stretch is not None:
            low, high = self.stretch
            share = (np.where(valid, values, low).astype(np.float32) - low) / (high - low)
            values = (share.clip(0, 1) * 255).round().astype(np.uint8)
        return values, valid


class _Grid(NamedTuple):
    crs: Any
    transform: Affine
    width: int
    height: int


def open_image(
    path: str | os.PathLike, finest: float, coarsest: float, *, bands: Sequence[int | str] | None = None,
    stretch: tuple[float, float] | None = None, nodata: float | str | None = "declared", gsd: float | None = None,
) -> Image:
    """Examine an image, and choose the grid that it is predicted on.

    That is the image's own grid if its pixels are square and of a size that the model was trained on. Otherwise it is a
    grid of the nearest such size, in the image's CRS or, if that is rotated or not in meters, in UTM.

    Args:
        finest, coarsest: ground sampling distances that the model was trained on, meters.
        bands: numbers (from 1) or names of the red, green and blue bands; by default as the file names them, or 1, 2, 3
            if it has no others.
        stretch: values that become 0 and 255; by default none for uint8, else the 2nd and 98th percentile.
        nodata: nodata value of the image; by default the one that the file declares, and None for no nodata value.
        gsd: ground sampling distance to predict at, meters; for an image without a CRS or geotransform, which needs it,
            the size of its pixels.

    Raises:
        UnreadableRaster: the file does not exist or is no raster.
        MissingCRS: the image has no CRS or geotransform, and ``gsd`` is not given.
        UnsupportedImagery: the three bands cannot be found, hold complex numbers or no valid pixel, or the stretch is
            empty.
    """
    path = Path(path).absolute()  # workers may run in another folder
    with _open(path) as file:
        numbers = _find_bands(file, path, bands)
        own = _Grid(file.crs, file.transform, file.width, file.height)
        blank: Any = file.nodatavals[numbers[0] - 1] if nodata == "declared" else nodata
        dtype = file.dtypes[numbers[0] - 1]
    if dtype.startswith("complex"):
        raise UnsupportedImagery(f"{path} holds complex numbers ({dtype}): give reflectance or uint8")
    crs = latitude = None
    if own.crs is None or not (own.crs.is_geographic or own.crs.is_projected) or own.transform.is_identity:
        size = _given_size(path, gsd)
        grid = own._replace(transform=Affine.scale(size, -size))
        warped = False
    else:
        grid = _choose_grid(path, own, finest, coarsest, gsd)
        size, latitude, crs = square_size(pixel_size(*grid)), center(*grid)[1], grid.crs.to_wkt()
        warped = grid is not own
    transform = tuple(grid.transform)[:6]
    image = Image(str(path), numbers, crs, transform, grid.height, grid.width, size, latitude, blank, None, warped)
    return _choose_stretch(image, dtype, stretch)


def _open(path: Path) -> DatasetReader:
    if not path.exists():
        raise UnreadableRaster(f"{path} does not exist: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: RasterioError) -> UnreadableRaster:
    return UnreadableRaster(f"{path} cannot be read ({error}): is it a whole raster file? Download or copy it again")


def _find_bands(file: DatasetReader, path: Path, bands: Sequence[int | str] | None) -> tuple[int, int, int]:
    """Numbers of the red, green and blue bands, from 1."""
    if bands is None:
        red, green, blue = (_band_of(file, color) for color in NAMES)
        if red and green and blue:
            return red, green, blue
        if file.count == 3 or (file.count == 4 and ColorInterp.alpha in file.colorinterp):
            return 1, 2, 3
        raise UnsupportedImagery(
            f"{path} has {file.count} band(s), and their names do not include red, green and blue: give their numbers, "
            "such as --bands 4,3,2"
        )
    chosen = [_chosen_band(file, path, str(band)) for band in bands]
    if len(chosen) != 3:
        raise UnsupportedImagery(f"{len(chosen)} band(s) given for {path}: give three, red, green and blue")
    red, green, blue = chosen
    return red, green, blue


def _band_names(file: DatasetReader) -> list[str]:
    return [(name or "").lower() for name in file.descriptions]


def _band_of(file: DatasetReader, color: str) -> int | None:
    """The first band with one of a color's names, else the first that the file declares as this color."""
    named = [number for number, name in enumerate(_band_names(file), 1) if name in NAMES[color]]
    declared = [number for number, interpretation in enumerate(file.colorinterp, 1) if interpretation.name == color]
    return next(iter(named or declared), None)


def _chosen_band(file: DatasetReader, path: Path, band: str) -> int:
    text, names, number = band.strip().lower(), _band_names(file), None
    if text.isdigit():
        number = int(text)
    elif text in names:
        number = names.index(text) + 1
    elif text in NAMES:
        number = _band_of(file, text)
    if number is None or not 1 <= number <= file.count:
        known = ", ".join(filter(None, file.descriptions)) or "without names"
        raise UnsupportedImagery(f"{path} has no band {band}: choose among its {file.count} ({known})")
    return number


def _given_size(path: Path, gsd: float | None) -> float:
    """The size of the pixels of an image without coordinates, meters."""
    if gsd is None:
        raise MissingCRS(
            f"{path} lacks a coordinate reference system or a geotransform: set both with gdal_edit.py, or give the "
            "size of its pixels in meters (--gsd) for a DEM without coordinates"
        )
    warnings.warn(
        f"{path} has no coordinates, so the DEM will have none; its heights assume that a pixel is {gsd:g} m wide and, "
        "unless --sun is given, that the sun is in the south-east", stacklevel=3,
    )
    return gsd


def _choose_grid(path: Path, own: _Grid, finest: float, coarsest: float, gsd: float | None) -> _Grid:
    """The image's own grid, or one of square pixels of a size that the model was trained on."""
    down, along = pixel_size(*own)
    size, ratio = square_size((down, along)), along / down
    target = gsd or min(max(size, finest), coarsest)
    if not 1 / MAX_FACTOR <= size / target <= 1.5:
        effect = "which loses finer detail" if size < target else "which adds no detail, so expect little"
        warnings.warn(
            f"{path} has pixels of {size:.3g} m, and the model was trained on {finest:.3g} to {coarsest:.3g} m: the "
            f"image is resampled to {target:.3g} m, {effect}", stacklevel=3,
        )
    upright = own.transform.b == own.transform.d == 0 and own.transform.e < 0 < own.transform.a
    square = upright and 0.97 < ratio < 1.03 and not own.crs.is_geographic
    if not square:
        return _utm_grid(own, target)
    return own if abs(size / target - 1) < 0.01 else _scaled_grid(own, target / size)


def _scaled_grid(own: _Grid, factor: float) -> _Grid:
    """The image's grid with pixels that are ``factor`` times larger."""
    if abs(factor - round(factor)) < 0.01 * factor:  # 10 m to 30 m is three by three, though the projection stretches
        factor = round(factor)
    width, height = (math.ceil(side / factor - 0.01) for side in (own.width, own.height))
    return _Grid(own.crs, own.transform * Affine.scale(factor), width, height)


def _utm_grid(own: _Grid, size: float) -> _Grid:
    """A grid of the image's UTM zone that covers the image, with pixels of ``size`` meters."""
    utm = rasterio.crs.CRS.from_epsg(int(utm_epsg(*center(*own))))
    corners = [own.transform * corner for corner in ((0, 0), (own.width, 0), (0, own.height), (own.width, own.height))]
    xs, ys = zip(*corners)
    bounds = min(xs), min(ys), max(xs), max(ys)
    return _Grid(utm, *calculate_default_transform(own.crs, utm, own.width, own.height, *bounds, resolution=size))


def _choose_stretch(image: Image, dtype: str, stretch: tuple[float, float] | None) -> Image:
    """The image with its stretch; warns if the values look wrong."""
    values, valid = image.sample()
    if not valid.any():
        raise UnsupportedImagery(f"{image.path} has no valid pixel: give another image, or another nodata value")
    if stretch is not None and not stretch[0] < stretch[1]:
        raise UnsupportedImagery(f"{image.path}: stretch={stretch} must go from a lower to a higher value")
    if stretch is None and dtype != "uint8":
        low, high = (float(value) for value in np.percentile(values[:, valid], (2, 98)))
        if low == high:
            raise UnsupportedImagery(f"{image.path} is {low:g} almost everywhere: give an image with contrast")
        stretch = low, high
        warnings.warn(
            f"{image.path} holds {dtype}: its 2nd and 98th percentile, {low:.4g} and {high:.4g}, become black and "
            "white; choose other values with --stretch", stacklevel=3,
        )
    red, _, blue = values[:, valid].astype(np.float32)
    if (blue > red).mean() > 0.9:
        warnings.warn(
            f"{image.path}: blue is brighter than red almost everywhere, so the band order may be wrong; bands "
            f"{', '.join(map(str, image.bands))} are used as red, green and blue", stacklevel=3,
        )
    return replace(image, stretch=stretch)
