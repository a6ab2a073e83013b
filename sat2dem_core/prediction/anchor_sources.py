"""Known heights as users give them: a DEM, points of a CSV or vector file, or one place as text.

Points become a table with the columns ``lon`` and ``lat`` (degrees) or ``x`` and ``y`` (in the image's CRS), and
``height`` (meters); a DEM becomes cells on the image's grid.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from sat2dem_core.errors import InvalidAnchors, needs
from sat2dem_core.rasters.reader import Image
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
        to_image = Transformer.from_crs("EPSG:4326", CRS.from_user_input(image.crs), always_xy=True)
        x, y = to_image.transform(points.lon.to_numpy(), points.lat.to_numpy())
    else:
        x, y = points.x, points.y
    columns, rows = ~Affine(*image.transform) * (np.asarray(x, float), np.asarray(y, float))
    table = pd.DataFrame({"row": np.floor(rows), "column": np.floor(columns), "height": points.height.to_numpy(float)})
    inside = table.row.between(0, image.height - 1) & table.column.between(0, image.width - 1)
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


def read_dem(path: Path, image: Image) -> CoarseDEM:
    """Read a DEM onto cells of the image about as large as the DEM's own pixels.

    Raises:
        InvalidAnchors: the file cannot be read, is not a DEM with a CRS, or its values are not heights in meters.
    """
    try:
        with rasterio.open(path) as file:
            if file.count != 1 or file.crs is None:
                raise InvalidAnchors(f"{path} is not a DEM: give one band of elevation in meters, with a CRS")
            heights, transform, crs = file.read(1, masked=True), file.transform, file.crs
    except RasterioError as error:
        raise InvalidAnchors(
            f"{path} cannot be read ({error}): give a DEM, a CSV or vector file, or lon,lat,height"
        ) from error
    heights = heights.astype("float64").filled(np.nan)
    _check_heights(heights[~np.isnan(heights)], path)
    side = _pixel_side(transform, crs, image)
    cell = max(1, round(side))
    resampled = np.full((-(-image.height // cell), -(-image.width // cell)), np.nan)
    averages = side < 0.7  # several pixels of the DEM fall into one of the image
    reproject(
        heights, resampled, src_transform=transform, src_crs=crs, src_nodata=np.nan,
        dst_transform=Affine(*image.transform) * Affine.scale(cell), dst_crs=image.crs, dst_nodata=np.nan,
        resampling=Resampling.average if averages else Resampling.bilinear,
    )
    return CoarseDEM(resampled, cell)


def _pixel_side(transform: Affine, crs: object, image: Image) -> float:
    """The side of a DEM's pixel at the center of the image, px of the image."""
    from_pixels = Affine(*image.transform)
    center = from_pixels * (image.width / 2, image.height / 2)
    to_dem = Transformer.from_crs(CRS.from_user_input(image.crs), CRS.from_user_input(crs), always_xy=True)
    column, row = ~transform * to_dem.transform(*center)
    xs, ys = zip(transform * (column, row), transform * (column, row + 1))
    first, second = (~from_pixels * corner for corner in zip(*to_dem.transform(xs, ys, direction="INVERSE")))
    return float(np.hypot(second[0] - first[0], second[1] - first[1]))


def _check_heights(heights: np.ndarray, source: object) -> None:
    if len(heights) and (np.nanmin(heights) < LOWEST or np.nanmax(heights) > HIGHEST):
        raise InvalidAnchors(
            f"{source} has heights from {np.nanmin(heights):g} to {np.nanmax(heights):g}, which are not in meters: "
            "correct or remove them"
        )
