"""A cubic spline through values at the centers of square cells, evaluated on pixels and averaged over cells.

Both are products of a matrix for the rows, the spline's coefficients, and a matrix for the columns, so that their cost
grows with the number of pixels, or of cells, and not faster.
"""

from functools import cached_property

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import spline_filter
from scipy.sparse import csr_array

MARGIN = 12  # cells added around, equal to the nearest: beyond the outermost centers the spline stays level


class CellSpline:
    """A surface that has given values at the centers of cells.

    Args:
        values: (h, w) at the cells' centers.
        cell: side of a cell, px.
        shape: of the pixels, (H, W); the last cells may reach beyond them.
    """

    def __init__(self, values: np.ndarray, cell: int, shape: tuple[int, int]):
        self.cell, self.shape = cell, shape
        padded = np.pad(values, MARGIN, mode="edge")
        self.coefficients = spline_filter(padded, order=3, output=np.float64, mode="nearest").astype(np.float32)

    def surface(self, top: int, bottom: int) -> np.ndarray:
        """The rows from ``top`` to ``bottom``, (bottom - top, W)."""
        rows = _basis(np.arange(top, bottom), self.cell, self.coefficients.shape[0])
        return (rows @ self.coefficients) @ self._columns.T

    def means(self) -> np.ndarray:
        """The mean of the surface over each cell, (h, w)."""
        rows = _basis(np.arange(self.shape[0]), self.cell, self.coefficients.shape[0])
        over_rows, over_columns = (
            _averages(side, self.cell) @ basis for side, basis in zip(self.shape, (rows, self._columns))
        )
        return (over_rows @ self.coefficients) @ over_columns.T

    @cached_property
    def _columns(self) -> csr_array:
        return _basis(np.arange(self.shape[1]), self.cell, self.coefficients.shape[1])


def _basis(pixels: np.ndarray, cell: int, count: int) -> csr_array:
    """The weights of ``count`` coefficients at the centers of pixels, (N, count): four in each row."""
    positions = (pixels + 0.5) / cell - 0.5 + MARGIN
    knots = np.arange(count + 4) - 2.0  # the basis function of a coefficient has its center there
    return csr_array(BSpline.design_matrix(positions, knots, 3).astype(np.float32))


def _averages(side: int, cell: int) -> csr_array:
    """The matrix that averages pixels over cells, (cells, side)."""
    cells = np.arange(side) // cell
    counts = np.bincount(cells)
    return csr_array(((1 / counts[cells]).astype(np.float32), (cells, np.arange(side))), (len(counts), side))
