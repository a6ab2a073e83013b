"""An image of any size, grid and type, read window by window as a network wants it: uint8 red, green, blue on square pixels.

Nothing is loaded whole: GDAL warps the pixels of a window when it is read. So an :class:`Image` is a few numbers, which
travel to other processes as they are.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from sat2dem_core.errors import MissingCRS, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.grids import center, pixel_size, square_size, utm_epsg

NAMES = {  # how files and missions call their bands
    "red": ("red", "b4", "b04", "sr_b4", "r"),
    "green": ("green", "b3", "b03", "sr_b3", "g"),
    "blue": ("blue", "b2", "b02", "sr_b2", "b"),
}
SAMPLE = 1024  # px: the reduced picture that the stretch and the checks are taken from
MAX_FACTOR = 4.0  # how many times coarser or finer than the model's an image may be without a word


@dataclass(frozen=True)
class Image:
    """An image on the grid that it is predicted on.

    Attributes:
        path: of the file.
        bands: numbers of red, green and blue in it, from 1.
        crs, transform, height, width: the grid, as WKT and affine numbers; ``crs`` is None for an image that has none.
        gsd: ground sampling distance, meters.
        latitude: of the center, degrees; None without a CRS.
        nodata: the value that means "nothing here" where all bands have it; None for no such value.
        stretch: values that become 0 and 255; None for uint8, which is taken as it is.
        warped: whether the grid is another than the file's.
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
        """A window: (3, height, width) uint8 and where there is an image, (height, width) bool."""
        window = Window(column, row, width, height)
        with rasterio.open(self.path) as file:
            if not self.warped:
                return self._scaled(*self._masked(file, window=window))
            # an average where pixels grow, so that none is skipped; GDAL then needs to be told what "all nodata" means
            own = square_size(pixel_size(file.crs, file.transform, file.width, file.height))
            shrinking = self.gsd > 1.01 * own
            options = {"resampling": Resampling.average if shrinking else Resampling.cubic, "UNIFIED_SRC_NODATA": "YES"}
            alpha = self.nodata is None and not any(c == ColorInterp.alpha for c in file.colorinterp)
            with WarpedVRT(
                file, crs=self.crs, transform=Affine(*self.transform), height=self.height, width=self.width,
                src_nodata=self.nodata, nodata=self.nodata, add_alpha=alpha, **options,
            ) as grid:
                return self._scaled(*self._masked(grid, window=window))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole file at no more than SAMPLE px a side: (3, h, w) of the file's type, and where there is an image."""
        with rasterio.open(self.path) as file:
            share = min(1.0, SAMPLE / max(file.height, file.width))
            shape = math.ceil(file.height * share), math.ceil(file.width * share)
            return self._masked(file, out_shape=(3, *shape))

    def _masked(self, file: DatasetReader, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        try:
            values = file.read(self.bands, **how)
            if "out_shape" in how:
                how["out_shape"] = how["out_shape"][1:]
            seen = np.ones(values.shape[1:], bool)
            for number, color in enumerate(file.colorinterp, 1):
                if color == ColorInterp.alpha:
                    seen &= file.read(number, **how) > 0
        except RasterioError as error:
            raise UnreadableRaster(f"{self.path} cannot be read ({error}): is it a whole raster file? Fetch it again") from error
        if self.nodata is not None:
            seen &= (values != self.nodata).any(0) if not math.isnan(self.nodata) else True
        if values.dtype.kind == "f":
            seen &= np.isfinite(values).all(0)
        return values, seen

    def _scaled(self, values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.stretch is not None:
            low, high = self.stretch
            share = (np.where(seen, values, low).astype(np.float32) - low) / (high - low)
            values = (share.clip(0, 1) * 255).round().astype(np.uint8)
        return values, seen


def open_image(
    path: str | os.PathLike, finest: float, coarsest: float, *, bands: Sequence[int | str] | None = None,
    stretch: tuple[float, float] | None = None, nodata: float | str | None = "declared", gsd: float | None = None,
) -> Image:
    """Look at an image, and lay the grid that it is to be predicted on.

    That is the image's own where its pixels are square and as large as the model knows them. Else it is a grid of the
    nearest such size, in the image's CRS or, where that has no meters or is turned, in UTM.

    Args:
        finest, coarsest: ground sampling distances that the model knows, meters.
        bands: numbers (from 1) or names of red, green and blue; by default what the file says, or the first three.
        stretch: values that become 0 and 255; for anything but uint8 by default the 2nd and 98th percentile.
        nodata: the value that means "nothing here"; by default what the file declares, None to ignore that.
        gsd: ground sampling distance to predict at, meters; for an image without a CRS or geotransform, which is then
            accepted, what its pixels are.

    Raises:
        UnreadableRaster, MissingCRS, UnsupportedImagery: see each; all name the file.
    """
    path = Path(path).absolute()  # workers may stand elsewhere
    if not path.exists():
        raise UnreadableRaster(f"{path} does not exist: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = rasterio.open(path)
    except RasterioError as error:
        raise UnreadableRaster(f"{path} cannot be read ({error}): is it a whole raster file? Fetch it again") from error
    with file:
        chosen = _bands(file, path, bands)
        crs, transform, height, width = file.crs, file.transform, file.height, file.width
        blank: Any = file.nodatavals[chosen[0] - 1] if nodata == "declared" else nodata
        dtype = file.dtypes[chosen[0] - 1]
    if dtype.startswith("complex"):
        raise UnsupportedImagery(f"{path} holds complex numbers ({dtype}): give reflectance or uint8")
    placed = crs is not None and (crs.is_geographic or crs.is_projected) and not transform.is_identity
    if not placed:
        if gsd is None:
            raise MissingCRS(
                f"{path} does not say where on Earth it lies (no coordinate reference system or geotransform): set both with "
                "gdal_edit.py, or say how large its pixels are in meters (--gsd) for a DEM that lies nowhere"
            )
        warnings.warn(
            f"{path} lies nowhere on Earth: neither will the DEM, and its heights rest on the word that a pixel is {gsd:g} m "
            "and the sun in the south-east", stacklevel=2,
        )
        image = Image(str(path), chosen, None, tuple(Affine.scale(gsd, -gsd))[:6], height, width, gsd, None, blank, None, False)
    else:
        down, along = pixel_size(crs, transform, width, height)
        own, ratio = square_size((down, along)), along / down
        work = gsd or min(max(own, finest), coarsest)
        if not 1 / MAX_FACTOR <= own / work <= 1.5:
            warnings.warn(
                f"{path} has pixels of {own:.3g} m, the model knows {finest:.3g} to {coarsest:.3g} m: it is resampled to "
                f"{work:.3g} m, {'and finer detail is lost' if own < work else 'which adds no detail: expect little'}", stacklevel=2,
            )
        upright = transform.b == transform.d == 0 and transform.e < 0 < transform.a
        straight = upright and 0.97 < ratio < 1.03 and not crs.is_geographic
        if not (straight and abs(own / work - 1) < 0.01):
            transform, width, height, crs = _grid(crs, transform, width, height, own, work, straight)
            own = square_size(pixel_size(crs, transform, width, height))
            warped = True
        else:
            warped = False
        latitude = center(crs, transform, width, height)[1]
        image = Image(str(path), chosen, crs.to_wkt(), tuple(transform)[:6], height, width, own, latitude, blank, None, warped)
    return _look(image, dtype, stretch)


def _bands(file: DatasetReader, path: Path, bands: Sequence[int | str] | None) -> tuple[int, int, int]:
    names = [(name or "").lower() for name in file.descriptions]
    colors = [color.name for color in file.colorinterp]

    def find(color: str) -> int | None:
        named = [i for i, name in enumerate(names, 1) if name in NAMES[color]]
        return next(iter(named or [i for i, name in enumerate(colors, 1) if name == color]), None)

    if bands is None:
        red, green, blue = map(find, NAMES)
        if red and green and blue:
            return red, green, blue
        usual = file.count == 3 or (file.count == 4 and ColorInterp.alpha in file.colorinterp)
        if usual:
            return 1, 2, 3
        raise UnsupportedImagery(
            f"{path} has {file.count} band(s) and does not name red, green and blue: say which they are, such as --bands 4,3,2"
        )
    chosen = []
    for band in bands:
        text, number = str(band).strip().lower(), None
        if text.isdigit():
            number = int(text)
        elif text in names:
            number = names.index(text) + 1
        elif text in NAMES:
            number = find(text)
        if number is None or not 1 <= number <= file.count:
            known = ", ".join(filter(None, file.descriptions)) or "no names"
            raise UnsupportedImagery(f"{path} has no band {band}: it has {file.count}, with {known}")
        chosen.append(number)
    if len(chosen) != 3:
        raise UnsupportedImagery(f"{len(chosen)} band(s) given for {path}: give three, red, green and blue")
    red, green, blue = chosen
    return red, green, blue


def _grid(
    crs: Any, transform: Affine, width: int, height: int, own: float, work: float, straight: bool
) -> tuple[Affine, int, int, Any]:
    """A grid of square pixels that covers the image."""
    if straight:
        factor = work / own
        if abs(factor - round(factor)) < 0.01 * factor:  # 10 m to 30 m, which a projection stretches a little, is three by three
            factor = round(factor)
        return transform * Affine.scale(factor), math.ceil(width / factor - 0.01), math.ceil(height / factor - 0.01), crs
    utm = rasterio.crs.CRS.from_epsg(int(utm_epsg(*center(crs, transform, width, height))))
    corners = [transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    xs, ys = zip(*corners)
    bounds = min(xs), min(ys), max(xs), max(ys)
    made, columns, rows = calculate_default_transform(crs, utm, width, height, *bounds, resolution=work)
    return made, columns, rows, utm


def _look(image: Image, dtype: str, stretch: tuple[float, float] | None) -> Image:
    """Choose the stretch, and warn of what looks wrong."""
    values, seen = image.sample()
    if not seen.any():
        raise UnsupportedImagery(f"{image.path} is all nodata: give an image with something in it, or another nodata value")
    if stretch is not None and not stretch[0] < stretch[1]:
        raise UnsupportedImagery(f"{image.path}: stretch={stretch} must go from a lower to a higher value")
    if stretch is None and dtype != "uint8":
        low, high = (float(x) for x in np.percentile(values[:, seen], (2, 98)))
        if low == high:
            raise UnsupportedImagery(f"{image.path} holds {low:g} almost everywhere: give an image with something in it")
        stretch = low, high
        warnings.warn(
            f"{image.path} holds {dtype}: {low:.4g} to {high:.4g}, its 2nd and 98th percentile, are taken for black and "
            "white; choose others with --stretch", stacklevel=3,
        )
    red, _, blue = values[:, seen].astype(np.float32)
    if (blue > red).mean() > 0.9:
        warnings.warn(
            f"{image.path}: blue is brighter than red almost everywhere, so the band order may be wrong; bands "
            f"{', '.join(map(str, image.bands))} were taken for red, green, blue", stacklevel=3,
        )
    return replace(image, stretch=stretch)
