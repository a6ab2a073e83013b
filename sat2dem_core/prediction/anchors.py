"""Anchors: known heights to which predicted relief is tied. A coarse DEM, surveyed points, or a single known height.

Predicted relief has no vertical reference, and over many tiles it drifts. A smooth surface is fitted to the
differences, anchor minus prediction, and added to the prediction, so that all finer relief stays as predicted.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from scipy.ndimage import distance_transform_edt, map_coordinates

from sat2dem_core.errors import InvalidAnchors, choose
from sat2dem_core.prediction.anchor_sources import CoarseDEM, is_dem, locate, read_dem, read_points
from sat2dem_core.prediction.robust import robust_least_squares
from sat2dem_core.rasters.imagery import Image

ORDERS = {"offset": 0, "plane": 1, "quadratic": 2}
SURFACES = (*ORDERS, "cells")
MIN_PREDICTED_SHARE = 0.5  # of a coarse DEM's cell, for the cell to be an anchor


@dataclass(frozen=True)
class Fit:
    """A surface to add to a prediction, and how well the result meets the anchors.

    Attributes:
        kind: one of ``SURFACES``.
        coefficients: of the polynomial in rows and columns scaled to [-1, 1]; none for ``cells``.
        shape: of the mosaic, px.
        cells: (h, w) meters to add at the centers of cells, for ``cells``.
        cell: side of a cell, px.
        table: one row for each anchor: row, column (px), height, predicted, residual (anchor minus result, meters).
    """

    kind: str
    coefficients: np.ndarray
    shape: tuple[int, int] = (2, 2)
    cells: np.ndarray | None = None
    cell: int = 1
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)

    @classmethod
    def level(cls, meters: float) -> "Fit":
        """A constant, without anchors."""
        return cls("offset", np.array([meters]))

    def surface(self, top: int, bottom: int, width: int) -> np.ndarray:
        """Meters to add to rows ``top`` to ``bottom``: (bottom - top, width), or (1, 1) for a constant."""
        if self.cells is not None:
            rows, columns = ((np.arange(*span) + 0.5) / self.cell - 0.5 for span in ((top, bottom), (0, width)))
            positions = np.meshgrid(rows, columns, indexing="ij")
            return map_coordinates(self.cells, positions, order=3, mode="nearest")
        if self.kind == "offset":
            return np.full((1, 1), self.coefficients[0])
        rows, columns = np.meshgrid(np.arange(top, bottom), np.arange(width), indexing="ij")
        return _terms(rows, columns, self.shape, ORDERS[self.kind]) @ self.coefficients

    def tags(self) -> dict[str, str]:
        """Number of anchors, kind of surface, root mean square and largest residual, as tags of a GeoTIFF."""
        assert self.table is not None
        residual = self.table.residual.to_numpy()
        return {
            "ANCHORS": str(len(residual)), "ANCHOR_SURFACE": self.kind,
            "ANCHOR_RMSE": f"{np.sqrt((residual**2).mean()):.2f} m",
            "ANCHOR_LARGEST": f"{np.abs(residual).max():.2f} m",
        }


def fit_anchors(
    source: str | os.PathLike, surface: str | None, store: Path, image: Image, amplitude: float = 1.0,
    band: int | str | None = None,
) -> Fit:
    """Fit a surface to the differences between anchors and a mosaic.

    Args:
        source: a DEM on any grid, best a coarse one, whose cells are compared with the mosaic's mean over them; a CSV
            file with columns ``lon``, ``lat`` (degrees) or ``x``, ``y`` (in the image's CRS), and ``height`` (meters);
            a vector file (GeoPackage, GeoJSON, Shapefile …) of points with a field ``height``, or with z; or a single
            place as text, ``lon,lat,height``.
        surface: ``offset``, ``plane`` or ``quadratic``, by robust least squares; or ``cells``, for a DEM: each of its
            cells gets a correction of its own, interpolated by a cubic spline, so that everything coarser than a cell
            comes from the DEM, and everything finer from the prediction. By default ``cells`` for a DEM and ``offset``
            for points.
        store: the mosaic's Zarr group; see :mod:`sat2dem_core.prediction.pipeline`.
        image: that was predicted.
        amplitude: factor on the mosaic's heights.
        band: number or name of a DEM's band; by default its only one, or the one named ``elevation``.

    Raises:
        InvalidAnchors: the anchors cannot be read, lie outside the image, or are too few for the surface.
        UnknownName: there is no such surface.
        MissingExtra: a vector file needs pyogrio, which is not installed.
    """
    if image.grid.crs is None:
        raise InvalidAnchors(
            f"{image.path} has no CRS, so anchors cannot be located in it: assign a CRS and a geotransform to it"
        )
    kind = _kind(surface, source)
    relief = zarr.open_group(store, mode="r")["elevation"]
    if is_dem(source):
        dem = read_dem(source, image, band)
        table, cell = _cell_anchors(dem, relief, amplitude), dem.cell
    else:
        table, cell = _point_anchors(locate(read_points(source), image), relief, amplitude), 1
    if not len(table):
        raise InvalidAnchors(
            f"{source}: no anchor lies on a predicted pixel of {image.path}: give heights within the same area"
        )
    shape = image.grid.shape
    if kind == "cells":
        return _fit_cells(table, shape, cell)
    return _fit_polynomial(table, shape, kind, source)


def _kind(surface: str | None, source: str | os.PathLike) -> str:
    """The surface to fit: the one that was asked for, or the default for the source."""
    kind = choose("anchor surface", surface or ("cells" if is_dem(source) else "offset"), SURFACES)
    if kind == "cells" and not is_dem(source):
        raise InvalidAnchors(f"{source} holds points, and the surface 'cells' needs a DEM: choose {', '.join(ORDERS)}")
    return kind


def _point_anchors(points: pd.DataFrame, relief: Any, amplitude: float) -> pd.DataFrame:
    """Located points with the predicted height of their pixel; points without one are left out."""
    predicted = [float(relief[row, column]) * amplitude for row, column in zip(points.row, points.column)]
    return _where_predicted(points.assign(predicted=predicted))


def _cell_anchors(dem: CoarseDEM, relief: Any, amplitude: float) -> pd.DataFrame:
    """The DEM's known cells, each at its center, with the mean of the predicted heights within it."""
    height, width = dem.heights.shape
    anchors = []
    for row in range(height):
        strip = relief[row * dem.cell : (row + 1) * dem.cell].astype(np.float64) * amplitude
        missing = (0, dem.cell - strip.shape[0]), (0, width * dem.cell - strip.shape[1])
        padded = np.pad(strip, missing, constant_values=np.nan)
        cells = padded.reshape(dem.cell, width, dem.cell).swapaxes(0, 1).reshape(width, -1)
        for column in np.flatnonzero((~np.isnan(cells)).mean(1) >= MIN_PREDICTED_SHARE):
            center = row * dem.cell + dem.cell // 2, column * dem.cell + dem.cell // 2
            anchors.append((*center, dem.heights[row, column], np.nanmean(cells[column])))
    table = pd.DataFrame(anchors, columns=["row", "column", "height", "predicted"])
    return _where_predicted(table[table.height.notna()])


def _where_predicted(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.predicted.notna()].reset_index(drop=True)


def _fit_cells(table: pd.DataFrame, shape: tuple[int, int], cell: int) -> Fit:
    """Correct each cell by its own difference; where a cell has no anchor, by that of the nearest cell that has one."""
    difference = (table.height - table.predicted).to_numpy()
    index = table.row // cell, table.column // cell
    corrections = np.full((-(-shape[0] // cell), -(-shape[1] // cell)), np.nan)
    corrections[index] = difference
    nearest = distance_transform_edt(np.isnan(corrections), return_distances=False, return_indices=True)
    corrections = corrections[tuple(nearest)]
    fit = Fit("cells", np.empty(0), shape, corrections, cell)
    for _ in range(2):  # the spline through the corrections changes the cells' means a little
        corrections[index] += _cell_residuals(fit, table, difference)
    return replace(fit, table=table.assign(residual=_cell_residuals(fit, table, difference)))


def _cell_residuals(fit: Fit, table: pd.DataFrame, difference: np.ndarray) -> np.ndarray:
    """The difference in each cell minus the mean of the interpolated surface over it, (N,) meters."""
    added = np.empty(len(table))
    rows, columns = (table.row // fit.cell).to_numpy(), (table.column // fit.cell).to_numpy()
    for row in np.unique(rows):
        strip = fit.surface(row * fit.cell, min((row + 1) * fit.cell, fit.shape[0]), fit.shape[1])
        for index in np.flatnonzero(rows == row):
            left = columns[index] * fit.cell
            added[index] = strip[:, left : left + fit.cell].mean()
    return difference - added


def _fit_polynomial(table: pd.DataFrame, shape: tuple[int, int], kind: str, source: object) -> Fit:
    """Fit a polynomial surface by robust least squares."""
    difference = (table.height - table.predicted).to_numpy()
    terms = _terms(table.row.to_numpy(), table.column.to_numpy(), shape, ORDERS[kind])
    if len(difference) < terms.shape[1] or np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise InvalidAnchors(
            f"{source} has {len(difference)} anchor(s) on predicted pixels, too few or too close to one line for the "
            f"surface '{kind}': give more, or choose the surface 'offset'"
        )

    def solve(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(terms * root[:, None], difference * root, rcond=None)[0]
        return coefficients, difference - terms @ coefficients

    coefficients = robust_least_squares(solve, len(difference))
    return Fit(kind, coefficients, shape, table=table.assign(residual=difference - terms @ coefficients))


def _terms(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Monomials up to ``order`` in rows and columns scaled to [-1, 1]: (..., terms)."""
    y, x = (2 * np.asarray(index, float) / max(side - 1, 1) - 1 for index, side in zip((rows, columns), shape))
    return np.stack([y**i * x**j for i in range(order + 1) for j in range(order + 1 - i)], -1)
