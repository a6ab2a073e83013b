"""Anchors: known heights to which predicted relief is tied. A coarse DEM, surveyed points, or a single known height.

Predicted relief has no vertical reference, and over many tiles it drifts. A smooth surface is fitted to the
differences, anchor minus prediction, and added to the prediction, so that all finer relief stays as predicted. Areas
that no tile connects have levels of their own; one without an anchor stays relative.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from sat2dem_core.errors import InvalidAnchors, InvalidConfig, choose
from sat2dem_core.prediction.anchor_sources import is_dem, locate, read_dem, read_points
from sat2dem_core.prediction.outliers import deviations_of_points, deviations_on_grid, without_outliers
from sat2dem_core.prediction.robust import robust_least_squares
from sat2dem_core.prediction.work import ROWS
from sat2dem_core.rasters.coarse import CellSpline
from sat2dem_core.rasters.imagery import Image

ORDERS = {"offset": 0, "plane": 1, "quadratic": 2}
SURFACES = (*ORDERS, "cells")
MIN_PREDICTED_SHARE = 0.5  # of a coarse DEM's cell, for the cell to be an anchor
MIN_SHARE_OF_GROUP = 0.9  # of the predicted pixels of a cell: groups differ in their level, so their mean says nothing
UNSTATED = "not stated"  # of a vertical datum


@dataclass(frozen=True)
class Anchors:
    """Known heights at places of an image.

    Attributes:
        source: where they were read.
        kind: of the surface that ties the prediction to them, one of ``SURFACES``.
        shape: of the image, px.
        cells: (h, w) meters, of a DEM on square cells of the image, NaN where unknown; None for points.
        cell: side of a cell, px; 1 for points.
        points: row, column (px) and height (meters) of points; None for a DEM.
        vertical: name of the vertical datum.
    """

    source: str
    kind: str
    shape: tuple[int, int]
    cells: np.ndarray | None
    cell: int
    points: pd.DataFrame | None
    vertical: str


@dataclass(frozen=True)
class Fit:
    """What to add to a prediction.

    Attributes:
        kind: of the surface, one of ``SURFACES``.
        shape: of the mosaic, px.
        levels: for each group of connected tiles, the constant to add, meters.
        anchored: for each group, whether it holds an anchor.
        coefficients: of the polynomial's terms but the constant, in rows and columns scaled to [-1, 1].
        spline: the correction of cells, for ``cells``.
        table: one row for each anchor: row, column (px), height, predicted, group, used, residual (anchor minus
            result, meters).
        vertical: name of the vertical datum.
    """

    kind: str
    shape: tuple[int, int]
    levels: np.ndarray
    anchored: np.ndarray
    coefficients: np.ndarray = field(default_factory=lambda: np.empty(0))
    spline: CellSpline | None = None
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    vertical: str = UNSTATED

    @classmethod
    def relative(cls, lows: np.ndarray, shape: tuple[int, int]) -> "Fit":
        """Without anchors: the lowest height of each group becomes 0 m."""
        return cls("offset", shape, -np.asarray(lows, float), np.zeros(len(lows), bool))

    def surface(self, top: int, bottom: int, groups: np.ndarray | None = None) -> np.ndarray:
        """Meters to add to the rows from ``top`` to ``bottom``: (bottom - top, width).

        Args:
            groups: of these pixels; None where there is one.
        """
        index = np.zeros((1, 1), int) if groups is None else groups
        if self.spline is not None:
            form = self.spline.surface(top, bottom)
        elif len(self.coefficients):
            rows, columns = np.meshgrid(np.arange(top, bottom), np.arange(self.shape[1]), indexing="ij")
            form = _terms(rows, columns, self.shape, ORDERS[self.kind]) @ self.coefficients
        else:
            form = np.zeros((bottom - top, self.shape[1]))
        return self.levels[index] + np.where(self.anchored[index], form, 0.0)

    def tags(self) -> dict[str, str]:
        """Number of anchors, kind of surface, root mean square and largest residual, as tags of a GeoTIFF."""
        assert self.table is not None
        residual = self.table.residual[self.table.used].to_numpy()
        left_out = int((~self.table.used).sum())
        return {
            "ANCHORS": str(len(residual)), "ANCHORS_LEFT_OUT": str(left_out), "ANCHOR_SURFACE": self.kind,
            "ANCHOR_RMSE": f"{np.sqrt((residual**2).mean()):.2f} m",
            "ANCHOR_LARGEST": f"{np.abs(residual).max():.2f} m", "VERTICAL_DATUM": self.vertical,
        }


def check_surface(source: str | os.PathLike | None, surface: str | None) -> None:
    """Check that a kind of surface fits the source of anchors.

    Raises:
        UnknownName: there is no such surface.
        InvalidConfig: a surface without anchors.
        InvalidAnchors: the surface needs a DEM.
    """
    if surface is None:
        return
    choose("anchor surface", surface, SURFACES)
    if source is None:
        raise InvalidConfig(f"the surface '{surface}' ties a prediction to anchors: give --anchors, or leave it out")
    if surface == "cells" and not is_dem(source):
        raise InvalidAnchors(f"{source} holds points, and the surface 'cells' needs a DEM: choose {', '.join(ORDERS)}")


def read_anchors(
    source: str | os.PathLike, image: Image, surface: str | None = None, band: int | str | None = None,
    vertical: str | None = None,
) -> Anchors:
    """Read known heights and locate them in an image.

    Args:
        source: a DEM on any grid, best a coarse one, whose cells are compared with the mosaic's mean over them; a CSV
            or vector file of points, see :func:`sat2dem_core.prediction.anchor_sources.read_points`; or a single place
            as text, ``lon,lat,height``.
        surface: ``offset``, ``plane`` or ``quadratic``, by robust least squares; or ``cells``, for a DEM: each of its
            cells gets a correction of its own, interpolated by a cubic spline, so that everything coarser than a cell
            comes from the DEM, and everything finer from the prediction. By default ``cells`` for a DEM and ``offset``
            for points.
        band: number or name of a DEM's band; by default its only one, or the one named ``elevation``.
        vertical: name of the vertical datum; by default as the file says.

    Raises:
        InvalidAnchors: the anchors cannot be read, or lie outside the image.
        UnknownName: there is no such surface.
        MissingExtra: a vector file needs pyogrio, which is not installed.
    """
    check_surface(source, surface)
    if image.grid.crs is None:
        raise InvalidAnchors(
            f"{image.path} has no CRS, so anchors cannot be located in it: assign a CRS and a geotransform to it"
        )
    kind = surface or ("cells" if is_dem(source) else "offset")
    if is_dem(source):
        dem = read_dem(source, image, band)
        return Anchors(str(source), kind, image.grid.shape, dem.heights, dem.cell, None, vertical or dem.vertical)
    points = locate(read_points(source), image)
    if not len(points):
        raise InvalidAnchors(f"{source}: no anchor lies in the area of {image.path}: give heights within it")
    if kind != "offset" and len(points) <= ORDERS[kind]:
        raise _too_few(source, len(points), kind)
    return Anchors(str(source), kind, image.grid.shape, None, 1, points, vertical or "")


def fit_anchors(anchors: Anchors, store: Path, amplitude: float = 1.0, lows: np.ndarray | None = None) -> Fit:
    """Fit a surface to the differences between anchors and a mosaic; anchors that are blunders are left out.

    Args:
        store: the mosaic's Zarr group; see :mod:`sat2dem_core.prediction.pipeline`.
        amplitude: factor on the mosaic's heights.
        lows: the lowest height of each group of connected tiles, meters, after that factor; by default one group.

    Raises:
        InvalidAnchors: no anchor lies on a predicted pixel, or too few for the surface, or too many are blunders.
    """
    group = zarr.open_group(store, mode="r")
    lows = np.zeros(1) if lows is None else np.asarray(lows, float)
    on_cells = anchors.cells is not None
    table = _cells_table(anchors, group, amplitude) if on_cells else _points_table(anchors, group, amplitude)
    if not len(table):
        raise InvalidAnchors(
            f"{anchors.source}: no anchor lies on a predicted pixel of the image: give heights within the same area"
        )
    used = _on_grid(table, anchors) if on_cells else _among_points(table, anchors, len(lows))
    table = table.assign(used=used)
    fit = _fit(table[used], anchors, lows)
    residual = (table.height - table.predicted).to_numpy() - _added(fit, table, anchors)
    return replace(fit, table=table.assign(residual=residual), vertical=anchors.vertical or UNSTATED)


# Anchors and the prediction at their places


def _points_table(anchors: Anchors, group: zarr.Group, amplitude: float) -> pd.DataFrame:
    """Points with the predicted height of their pixel; those without one are left out."""
    points = anchors.points
    assert points is not None
    index = points.row.to_numpy(), points.column.to_numpy()
    predicted = group["elevation"].vindex[index].astype(np.float64) * amplitude
    groups = group["group"].vindex[index].astype(int) if "group" in group else np.zeros(len(points), int)
    table = points.assign(predicted=predicted, group=groups)
    return table[~np.isnan(predicted)].reset_index(drop=True)


def _cells_table(anchors: Anchors, group: zarr.Group, amplitude: float) -> pd.DataFrame:
    """A DEM's known cells, each at its center, with the mean of the predicted heights in it and their group."""
    assert anchors.cells is not None
    cell, heights = anchors.cell, anchors.cells
    parts = []
    step = -(-ROWS // cell)  # cells
    for first in range(0, heights.shape[0], step):
        last = min(first + step, heights.shape[0])
        relief = group["elevation"][first * cell : last * cell].astype(np.float64) * amplitude
        known = ~np.isnan(relief)
        count = sums_over_cells(known, cell)
        enough = (count >= MIN_PREDICTED_SHARE * cell**2) & ~np.isnan(heights[first:last])
        label = np.zeros(count.shape, int)
        if "group" in group:
            label, most = _most_frequent(np.where(known, group["group"][first * cell : last * cell], -1), cell)
            enough &= most >= MIN_SHARE_OF_GROUP * count
        rows, columns = np.nonzero(enough)
        if len(rows):
            mean = sums_over_cells(np.where(known, relief, 0.0), cell)[enough] / count[enough]
            table = {"row": (rows + first) * cell + cell // 2, "column": columns * cell + cell // 2}
            table |= {"height": heights[first:last][enough], "predicted": mean, "group": label[enough]}
            parts.append(pd.DataFrame(table))
    empty = pd.DataFrame({name: [] for name in ("row", "column", "height", "predicted", "group")})
    return pd.concat(parts, ignore_index=True) if parts else empty


def sums_over_cells(values: np.ndarray, cell: int) -> np.ndarray:
    """Sums over squares of ``cell`` px, of which the last may reach beyond the values."""
    rows, columns = (np.arange(0, side, cell) for side in values.shape)
    kind = np.int64 if values.dtype == bool else values.dtype
    return np.add.reduceat(np.add.reduceat(values, columns, axis=1, dtype=kind), rows, axis=0)


def _most_frequent(labels: np.ndarray, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """The label that most pixels of each square have, and their number; -1 is no label."""
    best = np.zeros((-(-labels.shape[0] // cell), -(-labels.shape[1] // cell)), int)
    most = np.zeros_like(best)
    for label in np.unique(labels[labels >= 0]):
        count = sums_over_cells(labels == label, cell)
        best, most = np.where(count > most, label, best), np.maximum(count, most)
    return best, most


# Outliers


def _on_grid(table: pd.DataFrame, anchors: Anchors) -> np.ndarray:
    """Which cells to use, (N,) bool."""
    assert anchors.cells is not None
    index = (table.row // anchors.cell).to_numpy(), (table.column // anchors.cell).to_numpy()
    difference = np.full(anchors.cells.shape, np.nan)
    difference[index] = (table.height - table.predicted).to_numpy()
    medians = pd.Series(difference[index]).groupby(table.group.to_numpy()).transform("median")
    difference[index] -= medians.to_numpy()  # each group has a level of its own
    deviation, scaled = deviations_on_grid(difference)
    return without_outliers(table.height.to_numpy(), deviation[index], scaled[index], anchors.source)


def _among_points(table: pd.DataFrame, anchors: Anchors, groups: int) -> np.ndarray:
    """Which points to use, (N,) bool."""
    fit = _fit_polynomial(table, anchors, np.zeros(groups))
    residual = (table.height - table.predicted).to_numpy() - _added(fit, table, anchors)
    deviation, scaled = deviations_of_points(residual, table[["row", "column"]].to_numpy(float))
    return without_outliers(table.height.to_numpy(), deviation, scaled, anchors.source)


# Surfaces


def _fit(table: pd.DataFrame, anchors: Anchors, lows: np.ndarray) -> Fit:
    return (_fit_cells if anchors.kind == "cells" else _fit_polynomial)(table, anchors, lows)


def _fit_cells(table: pd.DataFrame, anchors: Anchors, lows: np.ndarray) -> Fit:
    """Correct each cell by its own difference; where a cell has no anchor, by that of the nearest cell that has one."""
    assert anchors.cells is not None
    cell = anchors.cell
    levels, anchored = -lows, np.zeros(len(lows), bool)
    by_group = (table.height - table.predicted).groupby(table.group).median()
    levels[by_group.index], anchored[by_group.index] = by_group.to_numpy(), True
    difference = (table.height - table.predicted).to_numpy() - levels[table.group]
    index = (table.row // cell).to_numpy(), (table.column // cell).to_numpy()
    corrections = np.full(anchors.cells.shape, np.nan)
    corrections[index] = difference
    spline = CellSpline(corrections, cell, anchors.shape)
    return Fit("cells", anchors.shape, levels, anchored, spline=spline)


def _fit_polynomial(table: pd.DataFrame, anchors: Anchors, lows: np.ndarray) -> Fit:
    """Fit a polynomial by robust least squares; groups share its terms but the constant."""
    difference = (table.height - table.predicted).to_numpy()
    groups, member = np.unique(table.group.to_numpy(), return_inverse=True)
    form = _terms(table.row.to_numpy(), table.column.to_numpy(), anchors.shape, ORDERS[anchors.kind])
    terms = np.concatenate([np.eye(len(groups))[member], form], axis=1)
    if len(difference) < terms.shape[1] or np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise _too_few(anchors.source, len(difference), anchors.kind)

    def solve(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weighted = terms * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms, weighted.T @ difference)  # few terms, scaled to [-1, 1]
        return coefficients, difference - terms @ coefficients

    coefficients = robust_least_squares(solve, len(difference), tolerance=1e-4)
    levels, anchored = -lows, np.zeros(len(lows), bool)
    levels[groups], anchored[groups] = coefficients[: len(groups)], True
    return Fit(anchors.kind, anchors.shape, levels, anchored, coefficients[len(groups) :])


def _too_few(source: object, count: int, kind: str) -> InvalidAnchors:
    return InvalidAnchors(
        f"{source} has {count} anchor(s) on predicted pixels, too few or too close to one line for the surface "
        f"'{kind}': give more, or choose the surface 'offset'"
    )


def _added(fit: Fit, table: pd.DataFrame, anchors: Anchors) -> np.ndarray:
    """What the fit adds at the anchors, (N,) meters: for cells, the mean over each."""
    level = fit.levels[table.group.to_numpy()]
    if fit.spline is not None:
        return level + fit.spline.means()[table.row // anchors.cell, table.column // anchors.cell]
    form = _terms(table.row.to_numpy(), table.column.to_numpy(), fit.shape, ORDERS[fit.kind])
    return level + form @ fit.coefficients


def _terms(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Monomials from 1 to ``order`` in rows and columns scaled to [-1, 1]: (..., terms)."""
    y, x = (2 * np.asarray(index, float) / max(side - 1, 1) - 1 for index, side in zip((rows, columns), shape))
    powers: list[Any] = [y**i * x**j for i in range(order + 1) for j in range(order + 1 - i) if i + j]
    return np.stack(powers, -1) if powers else np.empty((*y.shape, 0))
