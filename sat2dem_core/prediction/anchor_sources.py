"""Known heights as users give them: a DEM, points of a CSV or vector file, or one place as text.

Points become a table of coordinates and heights; a DEM becomes cells on the image's grid.
"""

import io
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from pyproj.exceptions import CRSError
from rasterio.enums import Resampling

from sat2dem_core.errors import InvalidAnchors, MissingCRS, NoElevation, UnreadableRaster, UnsupportedImagery, needs
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.grids import apply, transformer
from sat2dem_core.rasters.imagery import Image
from sat2dem_core.terrain import HIGHEST, LOWEST

VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".kml", ".gml")
MOST_CELLS = 12_000_000  # into which an image is divided: each takes some 200 bytes while the surface is fitted
DEGREES = "EPSG:4326"
SEPARATORS = (",", ";", "\t", "|")
NAMES = {  # of columns and fields
    "lon": ("lon", "long", "longitude", "lng"), "lat": ("lat", "latitude"), "x": ("x", "easting", "east"),
    "y": ("y", "northing", "north"), "height": ("height", "elevation", "z", "elev", "altitude", "alt", "h"),
}


def is_dem(source: str | os.PathLike) -> bool:
    """Whether a source is taken for a DEM: it is neither ``lon,lat,height`` nor named like a CSV or vector file."""
    return _one_place(str(source)) is None and Path(source).suffix.lower() not in (".csv", *VECTORS)


def read_points(source: str | os.PathLike) -> pd.DataFrame:
    """Read points from a CSV file, a vector file or the text ``lon,lat,height``.

    A CSV file has a line of names: ``lon`` and ``lat`` in degrees, or ``x`` and ``y``, and ``height`` in meters, or
    common synonyms of these, in any order. Columns may be separated by commas, semicolons, tabs or bars, and decimals
    by a comma where columns are not. ``x`` and ``y`` are in the CRS that a line such as ``# EPSG:32613``, a column
    ``crs`` or a ``.prj`` file of the same name states, else in that of the image.

    Returns:
        A row for each point: ``x``, ``y`` and ``height``; ``attrs["crs"]`` is their CRS, None for the image's.

    Raises:
        InvalidAnchors: the file cannot be read, has no points, or a point has no height in meters.
        MissingExtra: a vector file needs pyogrio, which is not installed.
    """
    path, points = Path(source), _one_place(str(source))
    if points is None:
        points = _read_csv(path) if path.suffix.lower() == ".csv" else _read_vector(path)
    _check_heights(points.height.to_numpy(), source)
    return points


def locate(points: pd.DataFrame, image: Image) -> pd.DataFrame:
    """Find the row and column (from 0) of each point's pixel in the image; points outside are dropped.

    Raises:
        InvalidAnchors: the CRS that the points' file states is none.
    """
    x, y = points.x.to_numpy(float), points.y.to_numpy(float)
    if (crs := points.attrs["crs"]) is not None:
        try:
            x, y = transformer(crs, image.grid.crs).transform(x, y)
        except CRSError as error:
            raise InvalidAnchors(f"{crs!r} is no coordinate reference system ({error}): correct it") from error
    columns, rows = apply(~image.grid.affine, x, y)
    inside = (rows >= 0) & (rows < image.grid.height) & (columns >= 0) & (columns < image.grid.width)
    places = {"row": rows[inside].astype(int), "column": columns[inside].astype(int)}
    return pd.DataFrame(places | {"height": points.height.to_numpy(float)[inside]})


def _one_place(text: str) -> pd.DataFrame | None:
    """``lon,lat,height`` as a table of one row; None where the text is something else."""
    try:
        lon, lat, height = map(float, text.split(","))
    except ValueError:
        return None
    return _points({"x": [lon], "y": [lat], "height": [height]}, DEGREES)


def _points(columns: dict[str, Any], crs: str | None) -> pd.DataFrame:
    points = pd.DataFrame(columns)
    points.attrs["crs"] = crs
    return points


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        text = _decoded(path.read_bytes())
        comments = [line for line in text[:5000].splitlines() if line.startswith("#")]
        lines = [line for line in text[:5000].splitlines() if line.strip() and not line.startswith("#")]
        separator = max(SEPARATORS, key=(lines[0] if lines else "").count)
        decimal = "," if separator != "," and re.search(r"\d,\d", "\n".join(lines[1:])) else "."
        table = pd.read_csv(
            io.StringIO(text), sep=separator, decimal=decimal, comment="#", skipinitialspace=True,
        )
    except (OSError, ValueError) as error:
        raise InvalidAnchors(f"{path} cannot be read ({error}): give a CSV file with lon, lat and height") from error
    names = {str(name).strip().lower(): name for name in table.columns}
    found = {kind: next((names[name] for name in known if name in names), None) for kind, known in NAMES.items()}
    degrees = found["lon"] is not None and found["lat"] is not None
    x, y, height = found["lon" if degrees else "x"], found["lat" if degrees else "y"], found["height"]
    if x is None or y is None or height is None:
        listed = ", ".join(map(str, table.columns))
        raise InvalidAnchors(
            f"{path} has the columns {listed}: it needs height, and lon and lat, or x and y, separated by commas or "
            "semicolons"
        )
    numbers = table[[x, y, height]].apply(pd.to_numeric, errors="coerce")
    bad = np.flatnonzero(numbers.isna().any(axis=1))
    if len(bad):
        raise InvalidAnchors(
            f"{path}, line {bad[0] + 2 + len(comments)}: a coordinate or the height is missing or not a number: "
            "correct the line, or remove it"
        )
    columns = {name: numbers[column].to_numpy(float) for name, column in zip(("x", "y", "height"), (x, y, height))}
    return _points(columns, DEGREES if degrees else _stated_crs(path, comments, table, names))


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _stated_crs(path: Path, comments: list[str], table: pd.DataFrame, names: dict[str, Any]) -> str | None:
    """The CRS that a CSV file states in a comment, a column or a file beside it."""
    if match := re.search(r"\b(?:EPSG|ESRI):\d+", " ".join(comments), re.I):
        return match[0].upper()
    for name in ("crs", "epsg", "srid"):
        if name in names and len(table):
            values = table[names[name]].unique()
            if len(values) > 1:
                raise InvalidAnchors(f"{path} states several CRSs ({', '.join(map(str, values[:3]))}): convert to one")
            return f"EPSG:{values[0]}" if str(values[0]).isdigit() else str(values[0])
    beside = path.with_suffix(".prj")
    return beside.read_text(encoding="utf-8") if beside.is_file() else None


def _read_vector(path: Path) -> pd.DataFrame:
    with needs("vectors"):
        import pyogrio  # an extra, because it brings a second copy of GDAL
    try:
        meta, _, geometry, columns = pyogrio.raw.read(path)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InvalidAnchors(
            f"{path} cannot be read ({error}): give points in a GeoPackage, GeoJSON or Shapefile"
        ) from error
    points = shapely.from_wkb(geometry)
    if not len(points) or not (shapely.get_type_id(points) == shapely.GeometryType.POINT).all():
        raise InvalidAnchors(f"{path} holds no points, or other geometries too: give one point for each height")
    fields = {name.lower(): column for name, column in zip(meta["fields"], columns)}
    field = next((name for name in NAMES["height"] if name in fields), None)
    heights = np.asarray(fields[field] if field else shapely.get_z(points), float)
    if np.isnan(heights).any():
        number = int(np.isnan(heights).argmax()) + 1
        raise InvalidAnchors(f"{path}: point {number} has no height: give a field 'height', or points with z")
    if meta["crs"] is None:
        raise InvalidAnchors(f"{path} has no CRS: assign one with ogr2ogr -a_srs")
    return _points({"x": shapely.get_x(points), "y": shapely.get_y(points), "height": heights}, meta["crs"])


@dataclass(frozen=True)
class CoarseDEM:
    """A DEM on square cells of whole pixels of an image.

    Attributes:
        heights: (h, w) meters, NaN where unknown; the last row and column may reach beyond the image.
        cell: side of a cell, px of the image.
        vertical: name of the vertical datum; empty if the file does not say.
        beyond: number of rows and columns of cells on each side that lie outside of the image.
    """

    heights: np.ndarray
    cell: int
    vertical: str
    beyond: int = 0


def read_dem(
    path: str | os.PathLike, image: Image, band: int | str | None = None, beyond: int = 0,
    resampling: Resampling = Resampling.bilinear,
) -> CoarseDEM:
    """Read a DEM onto cells of the image about as large as the DEM's own pixels.

    Args:
        band: see :func:`sat2dem_core.rasters.elevation.open_elevation`.
        beyond: how many cells to read on each side of the image, too.
        resampling: between the DEM's pixels, where its grid is another and not finer.

    Raises:
        InvalidAnchors: the file cannot be read, is not a DEM with a CRS, or has no elevation in the image's area.
    """
    try:
        dem = open_elevation(path, band)
    except (UnreadableRaster, MissingCRS, NoElevation, UnsupportedImagery) as error:
        raise InvalidAnchors(f"{error}; anchors are a DEM, a CSV or vector file, or lon,lat,height") from error
    grid = image.grid
    side = 1 / dem.raster.pixels_per_pixel(grid)  # of a pixel of the DEM, px of the image
    cell = max(1, round(side))
    smallest = math.ceil(math.sqrt(grid.height * grid.width / MOST_CELLS))
    if cell < smallest:
        warnings.warn(
            f"{path} has pixels of {side:.2g} px of the image, whose {grid.height * grid.width / 1e6:.0f} million are "
            f"tied to it in cells of {smallest} px", stacklevel=4,
        )
        cell = smallest
    height, width = (-(-length // cell) + 2 * beyond for length in grid.shape)
    around = grid.window(-beyond * cell, -beyond * cell, height * cell, width * cell)
    heights = dem.on(around.scaled(cell, height, width), resampling)
    try:
        dem.check()
    except NoElevation as error:
        raise InvalidAnchors(str(error)) from error
    return CoarseDEM(heights.astype(np.float64), cell, dem.vertical, beyond)


def _check_heights(heights: np.ndarray, source: object) -> None:
    if len(heights) and (np.nanmin(heights) < LOWEST or np.nanmax(heights) > HIGHEST):
        raise InvalidAnchors(
            f"{source} has heights from {np.nanmin(heights):g} to {np.nanmax(heights):g}, which are not in meters: "
            "correct or remove them"
        )
