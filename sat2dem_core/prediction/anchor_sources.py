"""Known heights as users give them: a DEM, points of a CSV or vector file, or one place as text.

Points become a table with the columns ``lon`` and ``lat`` (degrees) or ``x`` and ``y`` (in the image's CRS), and
``height`` (meters); a DEM becomes cells on the image's grid.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from rasterio.enums import Resampling

from sat2dem_core.errors import InvalidAnchors, MissingCRS, NoElevation, UnreadableRaster, UnsupportedImagery, needs
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.rasters.grids import transformer
from sat2dem_core.rasters.imagery import Image
from sat2dem_core.terrain import HIGHEST, LOWEST

VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".kml", ".gml")


def is_dem(source: str | os.PathLike) -> bool:
    """Whether a source is taken for a DEM: it is neither ``lon,lat,height`` nor named like a CSV or vector file."""
    return _one_place(str(source)) is None and Path(source).suffix.lower() not in (".csv", *VECTORS)


def read_points(source: str | os.PathLike) -> pd.DataFrame:
    """Read points from a CSV file, a vector file or the text ``lon,lat,height``; one row for each point.

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
    """Find the row and column (from 0) of each point's pixel in the image; points outside are dropped."""
    if "lon" in points:
        x, y = transformer("EPSG:4326", image.grid.crs).transform(points.lon.to_numpy(), points.lat.to_numpy())
    else:
        x, y = points.x, points.y
    columns, rows = ~image.grid.affine * (np.asarray(x, float), np.asarray(y, float))
    table = pd.DataFrame({"row": np.floor(rows), "column": np.floor(columns), "height": points.height.to_numpy(float)})
    inside = table.row.between(0, image.grid.height - 1) & table.column.between(0, image.grid.width - 1)
    return table[inside].astype({"row": int, "column": int}).reset_index(drop=True)


def _one_place(text: str) -> pd.DataFrame | None:
    """``lon,lat,height`` as a table of one row; None where the text is something else."""
    try:
        lon, lat, height = map(float, text.split(","))
    except ValueError:
        return None
    return pd.DataFrame({"lon": [lon], "lat": [lat], "height": [height]})


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InvalidAnchors(f"{path} cannot be read ({error}): give a CSV file with lon, lat and height") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    place = next((pair for pair in (("lon", "lat"), ("x", "y")) if set(pair) <= set(table.columns)), None)
    if place is None or "height" not in table.columns:
        names = ", ".join(table.columns)
        raise InvalidAnchors(f"{path} has the columns {names}: it needs height, and lon and lat, or x and y")
    numbers = table[[*place, "height"]].apply(pd.to_numeric, errors="coerce")
    bad = numbers.index[numbers.isna().any(axis=1)]
    if len(bad):
        raise InvalidAnchors(
            f"{path}, line {bad[0] + 2}: a coordinate or the height is missing or not a number: correct the line, or "
            "remove it"
        )
    return numbers


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
    heights = np.asarray(fields["height"] if "height" in fields else shapely.get_z(points), float)
    if np.isnan(heights).any():
        number = int(np.isnan(heights).argmax()) + 1
        raise InvalidAnchors(f"{path}: point {number} has no height: give a field 'height', or points with z")
    if meta["crs"] is None:
        raise InvalidAnchors(f"{path} has no CRS: assign one with ogr2ogr -a_srs")
    to_degrees = Transformer.from_crs(CRS.from_user_input(meta["crs"]), "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(shapely.get_x(points), shapely.get_y(points))
    return pd.DataFrame({"lon": lon, "lat": lat, "height": heights})


@dataclass(frozen=True)
class CoarseDEM:
    """A DEM on square cells of whole pixels of an image.

    Attributes:
        heights: (h, w) meters, NaN where unknown; the last row and column may reach beyond the image.
        cell: side of a cell, px of the image.
    """

    heights: np.ndarray
    cell: int


def read_dem(path: str | os.PathLike, image: Image, band: int | str | None = None) -> CoarseDEM:
    """Read a DEM onto cells of the image about as large as the DEM's own pixels.

    Args:
        band: see :func:`sat2dem_core.rasters.elevation.open_elevation`.

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
    height, width = (-(-length // cell) for length in grid.shape)
    heights = dem.on(grid.scaled(cell, height, width), Resampling.bilinear)
    try:
        dem.check()
    except NoElevation as error:
        raise InvalidAnchors(str(error)) from error
    return CoarseDEM(heights.astype(np.float64), cell)


def _check_heights(heights: np.ndarray, source: object) -> None:
    if len(heights) and (np.nanmin(heights) < LOWEST or np.nanmax(heights) > HIGHEST):
        raise InvalidAnchors(
            f"{source} has heights from {np.nanmin(heights):g} to {np.nanmax(heights):g}, which are not in meters: "
            "correct or remove them"
        )
