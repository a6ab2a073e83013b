"""Known heights, to which predicted relief is tied: a coarse DEM, surveyed points, or one height that somebody knows.

A prediction has relief and no level, and over many tiles it drifts. What separates it from the anchors, anchor minus
prediction, is fitted by a smooth surface and added, so that all finer relief stays as predicted.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import shapely
import zarr
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject
from scipy.ndimage import distance_transform_edt, map_coordinates

from sat2dem_core.errors import InvalidAnchors, choose
from sat2dem_core.rasters.reader import Image
from sat2dem_core.terrain import HIGHEST, LOWEST

ORDERS = {"offset": 0, "plane": 1, "quadratic": 2}
SURFACES = (*ORDERS, "cells")
VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".kml", ".gml")
SHOWN = 0.5  # share of a coarse cell that must be predicted


@dataclass(frozen=True)
class Fit:
    """A surface to add to a prediction, and how well it meets the anchors.

    Attributes:
        kind: one of ``SURFACES``.
        coefficients: of the polynomial in rows and columns scaled to [-1, 1]; none for ``cells``.
        shape: of the mosaic, px.
        cells: (h, w) meters to add at the centers of cells, for ``cells``.
        cell: side of a cell, px.
        table: one row an anchor: row, column (px), height, predicted, residual (anchor minus result, meters).
    """

    kind: str
    coefficients: np.ndarray
    shape: tuple[int, int] = (2, 2)
    cells: np.ndarray | None = None
    cell: int = 1
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)

    @classmethod
    def level(cls, meters: float) -> "Fit":
        """The same everywhere."""
        return cls("offset", np.array([meters]))

    def surface(self, top: int, bottom: int, width: int) -> np.ndarray:
        """Meters to add to rows ``top`` to ``bottom``: (bottom - top, width), or (1, 1) where it is one number."""
        if self.cells is not None:
            rows, columns = ((np.arange(*span) + 0.5) / self.cell - 0.5 for span in ((top, bottom), (0, width)))
            places = np.meshgrid(rows, columns, indexing="ij")
            return map_coordinates(self.cells, places, order=3, mode="nearest")
        if self.kind == "offset":
            return np.full((1, 1), self.coefficients[0])
        rows, columns = np.meshgrid(np.arange(top, bottom), np.arange(width), indexing="ij")
        return _terms(rows, columns, self.shape, ORDERS[self.kind]) @ self.coefficients

    def tags(self) -> dict[str, str]:
        assert self.table is not None
        residual = self.table.residual.to_numpy()
        return {
            "ANCHORS": str(len(residual)), "ANCHOR_SURFACE": self.kind,
            "ANCHOR_RMSE": f"{np.sqrt((residual**2).mean()):.2f} m", "ANCHOR_LARGEST": f"{np.abs(residual).max():.2f} m",
        }


def fit_anchors(source: str | os.PathLike, surface: str | None, store: Path, image: Image, amplitude: float = 1.0) -> Fit:
    """Fit the surface between a mosaic and anchors.

    Args:
        source: a DEM of any grid, best coarse, whose cells are compared with the mosaic's mean over them; a CSV file with
            columns ``lon``, ``lat`` (degrees) or ``x``, ``y`` (in the image's CRS), and ``height`` (meters); points of a
            vector file (GeoPackage, GeoJSON, Shapefile …) with a field ``height``, or heights of their own; or one place
            as text, ``lon,lat,height``.
        surface: ``offset``, ``plane`` or ``quadratic``, robustly; or, for a DEM, ``cells``: each of its cells gets its own
            correction, cubically interpolated, so that what is coarser than a cell comes from the DEM, and what is finer from
            the prediction. By default ``cells`` for a DEM and ``offset`` for points.
        store: of the mosaic; see :mod:`sat2dem_core.prediction.pipeline`.
        amplitude: factor on the mosaic's heights.

    Raises:
        InvalidAnchors: the anchors cannot be read, lie elsewhere, or are too few for the surface.
        UnknownName: no such surface.
    """
    if image.crs is None:
        raise InvalidAnchors(
            f"{image.path} lies nowhere on Earth, so anchors have no place in it: give it a CRS and a geotransform"
        )
    path, relief = Path(source), zarr.open_group(store, mode="r")["elevation"]
    point = _one(str(source))
    raster = point is None and path.suffix.lower() not in (".csv", *VECTORS)
    kind = choose("anchor surface", surface or ("cells" if raster else "offset"), SURFACES)
    if kind == "cells" and not raster:
        raise InvalidAnchors(f"{source} holds points, and the surface 'cells' needs a DEM: choose {', '.join(ORDERS)}")
    if raster:
        table, cell, size = _cells(path, relief, image, amplitude)
    else:
        given = point if point is not None else _csv(path, image) if path.suffix.lower() == ".csv" else _vector(path)
        table = _at_points(given, source, relief, image, amplitude)
    shape = (image.height, image.width)
    apart = (table.height - table.predicted).to_numpy()
    if kind == "cells":
        filled = np.full(size, np.nan)
        filled[table.row // cell, table.column // cell] = apart
        # Where the DEM or the prediction is missing, as the nearest cell has it.
        nearest = distance_transform_edt(np.isnan(filled), return_distances=False, return_indices=True)
        filled = filled[tuple(nearest)]
        fit = Fit(kind, np.empty(0), shape, filled, cell)
        for _ in range(2):  # interpolated, the corrections miss the cells' means a little
            filled[table.row // cell, table.column // cell] += _cell_residuals(fit, table, apart)
        return replace(fit, table=table.assign(residual=_cell_residuals(fit, table, apart)))
    coefficients = _polynomial(table, apart, shape, ORDERS[kind], source)
    fitted = _terms(table.row.to_numpy(), table.column.to_numpy(), shape, ORDERS[kind]) @ coefficients
    return Fit(kind, coefficients, shape, table=table.assign(residual=apart - fitted))


def _cell_residuals(fit: Fit, table: pd.DataFrame, apart: np.ndarray) -> np.ndarray:
    """What the interpolated surface leaves of each cell's mean."""
    left = []
    for top in sorted(set(table.row // fit.cell)):
        rows = fit.surface(top * fit.cell, min((top + 1) * fit.cell, fit.shape[0]), fit.shape[1])
        inside = (table.row // fit.cell == top).to_numpy()
        columns = (table.column[inside] // fit.cell).to_numpy()
        left.append((np.flatnonzero(inside), [rows[:, c * fit.cell : (c + 1) * fit.cell].mean() for c in columns]))
    added = np.empty(len(table))
    for places, values in left:
        added[places] = values
    return apart - added


def _terms(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Powers up to ``order`` of rows and columns scaled to [-1, 1]: (..., terms)."""
    y, x = (2 * np.asarray(at, float) / max(side - 1, 1) - 1 for at, side in zip((rows, columns), shape))
    return np.stack([y**i * x**j for i in range(order + 1) for j in range(order + 1 - i)], -1)


def _polynomial(table: pd.DataFrame, apart: np.ndarray, shape: tuple[int, int], order: int, source: object) -> np.ndarray:
    """Least squares in which large residuals count less (Huber 1964, doi 10.1214/aoms/1177703732)."""
    terms = _terms(table.row.to_numpy(), table.column.to_numpy(), shape, order)
    if len(apart) < terms.shape[1] or np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise InvalidAnchors(
            f"{source} has {len(apart)} anchor(s) on predicted ground, too few or too much in a row for a {_name(order)}: "
            "give more, or choose the surface offset"
        )
    trust = np.ones(len(apart))
    for _ in range(20):
        weight = np.sqrt(trust)[:, None]
        coefficients = np.linalg.lstsq(terms * weight, apart * weight[:, 0], rcond=None)[0]
        residual = np.abs(apart - terms @ coefficients)
        bend = max(1.345 * 1.4826 * np.median(residual), 1e-6)
        trust = np.minimum(1, bend / np.maximum(residual, bend))
    return coefficients


def _name(order: int) -> str:
    return next(name for name, number in ORDERS.items() if number == order)


def _one(text: str) -> pd.DataFrame | None:
    """``lon,lat,height`` as a table of one row."""
    try:
        lon, lat, height = map(float, text.split(","))
    except ValueError:
        return None
    return pd.DataFrame({"lon": [lon], "lat": [lat], "height": [height]})


def _csv(path: Path, image: Image) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InvalidAnchors(f"{path} cannot be read ({error}): give a CSV file with lon, lat and height") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    place = next((pair for pair in (("lon", "lat"), ("x", "y")) if set(pair) <= set(table.columns)), None)
    if place is None or "height" not in table.columns:
        raise InvalidAnchors(f"{path} has columns {', '.join(table.columns)}: it needs height, and lon and lat, or x and y")
    numbers = table[[*place, "height"]].apply(pd.to_numeric, errors="coerce")
    bad = numbers.index[numbers.isna().any(axis=1)]
    if len(bad):
        raise InvalidAnchors(f"{path}, line {bad[0] + 2}: a place or a height is missing or no number; mend or remove it")
    return numbers


def _vector(path: Path) -> pd.DataFrame:
    try:
        import pyogrio  # here, for it brings GDAL once more, which nothing else needs
    except ImportError as error:
        raise InvalidAnchors(f"{path} needs pyogrio: pip install 'sat2dem-core[vectors]', or give a CSV file") from error
    try:
        meta, _, geometry, columns = pyogrio.raw.read(path)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InvalidAnchors(f"{path} cannot be read ({error}): give points in a GeoPackage, GeoJSON or Shapefile") from error
    points = shapely.from_wkb(geometry)
    if not len(points) or not (shapely.get_type_id(points) == shapely.GeometryType.POINT).all():
        raise InvalidAnchors(f"{path} holds something else than points: give one point for each height")
    names = {name.lower(): column for name, column in zip(meta["fields"], columns)}
    heights = names["height"] if "height" in names else shapely.get_z(points)
    table = pd.DataFrame({"x": shapely.get_x(points), "y": shapely.get_y(points), "height": np.asarray(heights, float)})
    if table.height.isna().any():
        number = int(table.height.isna().idxmax()) + 1
        raise InvalidAnchors(f"{path}: point {number} has no height; give a field 'height', or points with z")
    if meta["crs"] is None:
        raise InvalidAnchors(f"{path} has no CRS: set it with ogr2ogr -a_srs")
    to_degrees = Transformer.from_crs(CRS.from_user_input(meta["crs"]), "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(table.x.to_numpy(), table.y.to_numpy())
    return pd.DataFrame({"lon": lon, "lat": lat, "height": table.height})


def _at_points(given: pd.DataFrame, source: object, relief: Any, image: Image, amplitude: float) -> pd.DataFrame:
    """Where the points lie in the mosaic, and what it says there."""
    if "lon" in given:
        to_image = Transformer.from_crs("EPSG:4326", CRS.from_user_input(image.crs), always_xy=True)
        x, y = to_image.transform(given.lon.to_numpy(), given.lat.to_numpy())
    else:
        x, y = given.x, given.y
    _check_heights(given.height.to_numpy(), source)
    columns, rows = ~Affine(*image.transform) * (np.asarray(x, float), np.asarray(y, float))
    table = pd.DataFrame({"row": np.floor(rows), "column": np.floor(columns), "height": given.height.to_numpy(float)})
    inside = table.row.between(0, image.height - 1) & table.column.between(0, image.width - 1)
    table = table[inside].astype({"row": int, "column": int}).reset_index(drop=True)
    table["predicted"] = [float(relief[row, column]) * amplitude for row, column in zip(table.row, table.column)]
    return _known(table, source, image)


def _cells(path: Path, relief: Any, image: Image, amplitude: float) -> tuple[pd.DataFrame, int, tuple[int, int]]:
    """A DEM on whole squares of the mosaic's pixels about as large as its own, and the mosaic's mean over each."""
    try:
        with rasterio.open(path) as file:
            if file.count != 1 or file.crs is None:
                raise InvalidAnchors(f"{path} is no DEM: give one band of elevation in meters, with a CRS")
            heights, own, crs = file.read(1, masked=True).astype("float64").filled(np.nan), file.transform, file.crs
    except RasterioError as error:
        raise InvalidAnchors(f"{path} cannot be read ({error}): give a DEM, a CSV or vector file, or lon,lat,height") from error
    _check_heights(heights[~np.isnan(heights)], path)
    transform = Affine(*image.transform)
    corners = [~transform * at for at in zip(*_pixel(own, crs, image))]
    side = np.hypot(corners[1][0] - corners[0][0], corners[1][1] - corners[0][1])
    cell = max(1, round(side))
    size = -(-image.height // cell), -(-image.width // cell)
    wanted = np.full(size, np.nan)
    finer = side < 0.7  # then pixels of the DEM are averaged into one of the mosaic's
    reproject(
        heights, wanted, src_transform=own, src_crs=crs, src_nodata=np.nan, dst_transform=transform * Affine.scale(cell),
        dst_crs=image.crs, dst_nodata=np.nan, resampling=Resampling.average if finer else Resampling.bilinear,
    )
    found = []
    for number in range(size[0]):
        rows = relief[number * cell : (number + 1) * cell].astype(np.float64) * amplitude
        padded = np.pad(rows, ((0, cell - len(rows)), (0, size[1] * cell - rows.shape[1])), constant_values=np.nan)
        squares = padded.reshape(cell, size[1], cell).swapaxes(0, 1).reshape(size[1], -1)
        for column in np.flatnonzero((~np.isnan(squares)).mean(1) >= SHOWN):
            center = number * cell + cell // 2, column * cell + cell // 2
            found.append((*center, wanted[number, column], np.nanmean(squares[column])))
    table = pd.DataFrame(found, columns=["row", "column", "height", "predicted"])
    return _known(table[table.height.notna()].reset_index(drop=True), path, image), cell, size


def _pixel(own: Affine, crs: Any, image: Image) -> tuple:
    """Two neighboring corners of a pixel in the middle of a DEM's ground, in the image's CRS."""
    transform = Affine(*image.transform)
    middle = transform * (image.width / 2, image.height / 2)
    there = Transformer.from_crs(CRS.from_user_input(image.crs), CRS.from_user_input(crs), always_xy=True)
    column, row = ~own * there.transform(*middle)
    xs, ys = zip(own * (column, row), own * (column, row + 1))
    return there.transform(xs, ys, direction="INVERSE")


def _check_heights(heights: np.ndarray, source: object) -> None:
    if len(heights) and (np.nanmin(heights) < LOWEST or np.nanmax(heights) > HIGHEST):
        raise InvalidAnchors(
            f"{source} holds heights from {np.nanmin(heights):g} to {np.nanmax(heights):g}, which are none in meters: "
            "mend or remove them"
        )


def _known(table: pd.DataFrame, source: object, image: Image) -> pd.DataFrame:
    table = table[table.predicted.notna()].reset_index(drop=True)
    if not len(table):
        raise InvalidAnchors(f"{source}: no anchor lies on predicted ground of {image.path}; give heights of the same place")
    return table
