"""The one way in for raster files: what GDAL opens, where its pixels lie, and which of them hold data.

A :class:`Raster` is a few numbers, which travel to other processes as they are. Its pixels are read in windows, on its
own grid or on another. What is no data becomes NaN before anything is interpolated, so that averages ignore voids.
Images and elevation are read through :mod:`~sat2dem_core.rasters.imagery` and :mod:`~sat2dem_core.rasters.elevation`.
"""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from sat2dem_core.errors import MissingCRS, UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.grids import Grid, apply, horizontal, is_geographic, pixel_size, transformer

SAMPLE = 1024  # px: side of the reduced picture that the stretch and the checks are computed from
BLOCK = 2**23  # px of the file that are in memory at a time where it is resampled
MARGIN = 4  # px of the file around a window, for interpolation
# The vertical part of a CRS is wanted; a server that does not answer is given up soon enough to say so.
OPTIONS = {
    "GTIFF_REPORT_COMPD_CS": "YES", "GDAL_HTTP_CONNECTTIMEOUT": "15", "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3", "GDAL_HTTP_RETRY_DELAY": "1",
}
Convert = Callable[[np.ndarray], np.ndarray]


def address(path: str | os.PathLike) -> str:
    """The name of a raster for GDAL in any working folder: files get absolute paths, all else stays as it is.

    What is not a file has a scheme (``https://``, ``zip://``), begins with ``/vsi``, or names a member of a container
    (``NETCDF:"a.nc":z``).
    """
    text = os.fspath(path)
    elsewhere = text.startswith("/vsi") or re.match(r"[A-Za-z][\w+]+:", text)
    return text if elsewhere and not Path(text).exists() else str(Path(text).absolute())


def local_file(path: str | os.PathLike) -> Path | None:
    """The file on this computer that a raster is read from, which may be an archive; None for one on the network."""
    if Path(path).exists():
        return Path(path)
    text = re.sub(r"^(zip|tar|gzip|file)://|^/vsi(zip|tar|gzip)/", "", os.fspath(path))
    if "://" in text or text.startswith("/vsi"):
        return None
    if member := re.match(r'[A-Za-z]\w+:(?:"(.+)"|(.+?))(:.*)?$', text):  # of a container
        text = member[1] or member[2]
    path = Path(text.split("!")[0])
    return next((part for part in path.parents if part.is_file()), path)


def version_of(path: str | os.PathLike) -> list[Any]:
    """What changes when a raster's file does: size and time of a file, the headers that tell versions of an address."""
    file = local_file(path)
    if file is not None:
        return [file.stat().st_size, file.stat().st_mtime_ns]
    import requests

    try:
        headers = requests.head(re.sub("^/vsicurl/", "", os.fspath(path)), timeout=30, allow_redirects=True).headers
    except requests.RequestException:
        return []
    return [headers.get(name) for name in ("Content-Length", "Last-Modified", "ETag")]


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[DatasetReader]:
    """A raster file, open for reading.

    Raises:
        UnreadableRaster: it does not exist, cannot be read, or is a container of several rasters.
    """
    with _opened(path) as file:
        if not file.count:
            raise UnreadableRaster(_container(path, file))
        yield file


def members(path: str | os.PathLike) -> dict[str, str]:
    """The rasters in a container such as a Zarr store or a NetCDF file: name to address; empty for a plain raster.

    Raises:
        UnreadableRaster: see :func:`opened`.
    """
    with _opened(path) as file:
        return {} if file.count else _members(file)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[DatasetReader]:
    file = local_file(path)
    if file is not None and not file.exists():
        raise UnreadableRaster(f"{path} does not exist: check the path")
    with rasterio.Env(**OPTIONS), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(address(path)) as dataset:
                yield dataset
        except RasterioError as error:
            raise UnreadableRaster(
                f"{path} cannot be read ({error}): is it a whole raster file? Download or copy it again"
            ) from error


def _members(file: DatasetReader) -> dict[str, str]:
    """The members of a container that have rows and columns; others hold coordinates."""
    found = {}
    for name in file.subdatasets:
        with suppress(RasterioError), rasterio.open(name) as member:  # a single number is no raster
            if min(member.shape) > 1:
                found[re.split(r"[:/]", name)[-1].strip('"')] = name
    return found


def _container(path: object, file: DatasetReader) -> str:
    found = _members(file)
    if not found:
        return f"{path} holds no raster: give a file with bands"
    listed, first = ", ".join(list(found)[:8]) + ", …" * (len(found) > 8), next(iter(found.values()))
    return f"{path} holds several rasters ({listed}): give one of them by its full name, such as {first}"


@dataclass(frozen=True)
class Raster:
    """Bands of a raster file.

    Attributes:
        path: of the file, as GDAL opens it in any folder.
        bands: numbers of the bands that are read, from 1.
        dtype: of their values.
        grid: where the pixels lie.
        nodata: for each band the value that means nodata, or None. A pixel is nodata where all bands have theirs.
        fill: an undeclared value that means nodata where all bands have it; see :mod:`sat2dem_core.rasters.fill`.
    """

    path: str
    bands: tuple[int, ...]
    dtype: str
    grid: Grid
    nodata: tuple[float | None, ...]
    fill: float | None = None

    @classmethod
    def of(
        cls, file: DatasetReader, path: str | os.PathLike, bands: Sequence[int], nodata: float | str | None
    ) -> "Raster":
        """Bands of an open file.

        Args:
            nodata: the value that means nodata; "declared" for what the file declares, None for no such value.
        """
        known = [file.nodatavals[band - 1] if nodata == "declared" else nodata for band in bands]
        dtype = np.result_type(*(file.dtypes[band - 1] for band in bands)).name
        return cls(address(path), tuple(bands), dtype, own_grid(file), tuple(known))  # type: ignore[arg-type]

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A window: values (bands, height, width) of the file's type, and where they are data, (height, width) bool."""
        with opened(self.path) as file:
            return self._read(file, window=Window(column, row, width, height))

    def reduced(self, side: int = SAMPLE) -> tuple[np.ndarray, np.ndarray]:
        """The whole raster, in at most ``side`` px a side, as :meth:`read` gives it."""
        share = min(1.0, side / max(self.grid.shape))
        shape = tuple(math.ceil(length * share) for length in self.grid.shape)
        with opened(self.path) as file:
            return self._read(file, out_shape=shape)

    def _read(self, file: DatasetReader, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        each = how | ({"out_shape": (len(self.bands), *how["out_shape"])} if "out_shape" in how else {})
        values = file.read(self.bands, **each)
        valid = np.ones(values.shape[1:], bool)
        for band in self.bands:
            flags = file.mask_flag_enums[band - 1]
            if MaskFlags.all_valid not in flags and MaskFlags.nodata not in flags:
                valid &= file.read_masks(band, **how) > 0
                if MaskFlags.per_dataset in flags:
                    break
        for number, color in enumerate(file.colorinterp, 1):
            if color == ColorInterp.alpha and number not in self.bands:
                valid &= file.read(number, **how) > 0
        for blanks in (self.nodata, (self.fill,) * len(self.bands)):
            if None not in blanks:
                valid &= ~np.all([_equal(band, blank) for band, blank in zip(values, blanks)], 0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(0)
        return values, valid

    def on(
        self, grid: Grid, finer: Resampling = Resampling.cubic, convert: Convert | None = None
    ) -> np.ndarray:
        """The raster on another grid: (bands, height, width) float32, NaN where it has no data.

        Where the grid's pixels are those of the raster, values are taken as they are. Where they are larger, data are
        averaged and voids ignored.

        Args:
            grid: any grid with a CRS; or one without, whose pixels are those of a raster without.
            finer: how to interpolate where the grid's pixels are not larger.
            convert: applied to values (bands, h, w), which are NaN where there is no data, before they are resampled.
        """
        with opened(self.path) as file:
            offset = self.grid.offset(grid)
            if offset is not None:
                return self._cut(file, *offset, *grid.shape, convert)
            return self._resampled(file, grid, Resampling.average if self.averages(grid) else finer, convert)

    def _cut(
        self, file: DatasetReader, row: int, column: int, height: int, width: int, convert: Convert | None
    ) -> np.ndarray:
        """A window that may reach beyond the raster."""
        out = np.full((len(self.bands), height, width), np.nan, np.float32)
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.grid.height), min(column + width, self.grid.width)
        if top < bottom and left < right:
            values = self._values(file, (top, bottom), (left, right), convert)
            out[:, top - row : bottom - row, left - column : right - column] = values
        return out

    def _resampled(
        self, file: DatasetReader, grid: Grid, resampling: Resampling, convert: Convert | None
    ) -> np.ndarray:
        out = np.full((len(self.bands), *grid.shape), np.nan, np.float32)
        rows, columns = self._source_window(grid)
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            return out
        if (rows[1] - rows[0]) * (columns[1] - columns[0]) > BLOCK and max(grid.shape) > 64:
            return self._resampled_in_halves(file, grid, resampling, convert)
        reproject(
            self._values(file, rows, columns, convert), out,
            src_transform=Affine.translation(self.grid.turns(grid), 0) * self.grid.affine
            * Affine.translation(columns[0], rows[0]), src_crs=self.grid.crs,
            src_nodata=np.nan, dst_transform=grid.affine, dst_crs=grid.crs, dst_nodata=np.nan, resampling=resampling,
        )
        return out

    def _resampled_in_halves(
        self, file: DatasetReader, grid: Grid, resampling: Resampling, convert: Convert | None
    ) -> np.ndarray:
        height, width = grid.shape
        if width >= height:
            spans = (0, 0, height, width // 2), (0, width // 2, height, width - width // 2)
        else:
            spans = (0, 0, height // 2, width), (height // 2, 0, height - height // 2, width)
        halves = [self._resampled(file, grid.window(*span), resampling, convert) for span in spans]
        return np.concatenate(halves, axis=2 if width >= height else 1)

    def _values(
        self, file: DatasetReader, rows: tuple[int, int], columns: tuple[int, int], convert: Convert | None
    ) -> np.ndarray:
        """A window as floats, NaN where it has no data."""
        values, valid = self._read(file, window=Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0]))
        floats = values.astype(np.float64 if convert else np.float32)
        floats[:, ~valid] = np.nan
        return (convert(floats) if convert else floats).astype(np.float32)

    def _source_window(self, grid: Grid) -> tuple[tuple[int, int], tuple[int, int]]:
        """The rows and the columns of the file that a grid needs: from, to."""
        columns, rows = self.pixels_of(grid, *grid.points())
        known = np.isfinite(columns) & np.isfinite(rows)
        if not known.any():
            return (0, 0), (0, 0)
        spans = []
        for values, side in ((rows[known], self.grid.height), (columns[known], self.grid.width)):
            first, last = math.floor(values.min()) - MARGIN, math.ceil(values.max()) + MARGIN
            spans.append((min(max(first, 0), side), min(max(last, 0), side)))
        return spans[0], spans[1]

    def touches(self, grid: Grid) -> bool:
        """Whether a grid lies at least partly on this raster."""
        columns, rows = self.pixels_of(grid, *grid.points())
        return bool((columns.min() < self.grid.width) & (columns.max() > 0) & (rows.min() < self.grid.height)
                    & (rows.max() > 0))

    def pixels_of(self, grid: Grid, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of this raster, as fractions, at coordinates of another grid; not finite where undefined."""
        x, y = transformer(grid.crs, self.grid.crs).transform(x, y)
        if is_geographic(self.grid.crs):  # longitudes count from any meridian
            middle = (self.grid.affine * (self.grid.width / 2, self.grid.height / 2))[0]
            x = x - 360 * np.round((x - middle) / 360)
        return apply(~self.grid.affine, np.asarray(x), np.asarray(y))

    def averages(self, grid: Grid) -> bool:
        """Whether several pixels of this raster fall into one of another grid, so that they are averaged there."""
        return self.pixels_per_pixel(grid) > 1.01

    def pixels_per_pixel(self, grid: Grid) -> float:
        """How many pixels of this raster the side of one of another grid spans, at the center of that."""
        middle_x, middle_y = grid.width / 2, grid.height / 2
        ends = np.array([(middle_x, middle_y), (middle_x + 1, middle_y), (middle_x, middle_y + 1)]).T
        columns, rows = self.pixels_of(grid, *apply(grid.affine, *ends))
        (across, down), (across_rows, down_rows) = columns[1:] - columns[0], rows[1:] - rows[0]
        return math.sqrt(abs(across * down_rows - down * across_rows))


def _equal(values: np.ndarray, blank: float | None) -> np.ndarray:
    """Where values are a nodata value, as far as their type can hold it."""
    assert blank is not None
    if values.dtype.kind == "f":
        return values == values.dtype.type(blank) if not math.isnan(blank) else np.isnan(values)
    return values == blank


def own_grid(file: DatasetReader) -> Grid:
    """The grid of an open file; without a CRS where the file does not say where it lies."""
    crs = file.crs if has_place(file) else None
    wkt = horizontal(crs).to_wkt() if crs else None
    return Grid(wkt, tuple(file.transform)[:6], file.height, file.width)


def has_place(file: DatasetReader) -> bool:
    """Whether a file has both a coordinate reference system on the Earth's surface and a geotransform."""
    return file.crs is not None and (file.crs.is_geographic or file.crs.is_projected) and not file.transform.is_identity


def check_place(file: DatasetReader, path: object) -> None:
    """Check that a file says where on Earth it lies.

    Raises:
        MissingCRS: it does not, or what it says cannot be; the message has the command that mends it.
    """
    name = Path(str(path)).name
    if not has_place(file):
        file.read(1, window=Window(0, file.height - 1, file.width, 1))  # a truncated file may have lost its place, too
        if file.gcps[0]:
            raise MissingCRS(
                f"{path} has ground control points and no geotransform: lay it on a grid first, with gdalwarp -tps "
                f"{name} straight.tif"
            )
        if file.rpcs is not None:
            raise MissingCRS(
                f"{path} has rational polynomial coefficients and no geotransform: orthorectify it first, with "
                f"gdalwarp -rpc -to RPC_DEM=dem.tif -t_srs EPSG:… {name} straight.tif"
            )
        raise MissingCRS(
            f"{path} does not say where on Earth it lies (no coordinate reference system or geotransform): set both "
            f"with gdal_edit.py -a_srs EPSG:… -a_ullr WEST NORTH EAST SOUTH {name}"
        )
    _check_planet(file, path)
    grid = own_grid(file)
    x, y = grid.points(3)
    if file.crs.is_geographic and (np.abs(y).max() > 91 or np.abs(x).max() > 541):
        raise MissingCRS(
            f"{path} has coordinates up to {max(np.abs(x).max(), np.abs(y).max()):.0f} that are called degrees: they "
            f"are probably meters; assign their coordinate reference system with gdal_edit.py -a_srs EPSG:… {name}"
        )
    down, along = pixel_size(grid.crs, grid.affine, grid.width, grid.height)
    if not (math.isfinite(down) and math.isfinite(along)) or min(down, along) < 1e-3:
        raise MissingCRS(
            f"{path} lies where its coordinate reference system is not defined, or its pixels have no size: assign "
            f"the right one with gdal_edit.py -a_srs EPSG:… {name}"
        )


def _check_planet(file: DatasetReader, path: object) -> None:
    """Check that a file's coordinate reference system is the Earth's."""
    ellipsoid = horizontal(file.crs).ellipsoid
    if ellipsoid is not None and abs(ellipsoid.semi_major_metre / 6_378_137 - 1) > 0.01:
        raise MissingCRS(
            f"{path} lies on a body with a radius of {ellipsoid.semi_major_metre / 1000:.0f} km, not on the Earth: "
            "assign another coordinate reference system with gdal_edit.py -a_srs if that is wrong"
        )


def check_real(raster: Raster) -> None:
    """Check that values are real numbers.

    Raises:
        UnsupportedImagery: they are complex.
    """
    if raster.dtype.startswith("complex"):
        raise UnsupportedImagery(
            f"{raster.path} holds complex numbers ({raster.dtype}): give real ones, reflectance or uint8 for an image "
            "and meters for a DEM"
        )


def band_number(file: DatasetReader, band: int | str) -> int | None:
    """The number of a band, from 1, given by number or name; None if there is no such band."""
    text, names = str(band).strip().lower(), band_names(file)
    if text.isdigit():
        return int(text) if 1 <= int(text) <= file.count else None
    return names.index(text) + 1 if text in names else None


def listed_bands(file: DatasetReader) -> str:
    """The names of a file's bands, for a message."""
    return ", ".join(filter(None, file.descriptions)) or "without names"


def band_names(file: DatasetReader) -> list[str]:
    """What a file calls its bands, in lower case; empty text for a band without a name."""
    return [(name or "").strip().lower() for name in file.descriptions]
