"""Coarse DEMs under the finer pixels of an image: means over cells, and surfaces through them.

The mean-keeping spline is what a coarse DEM alone says about the terrain: its means over the cells are the cells'
values, as a coarse DEM's heights are means, and it is as smooth as that allows. A refined DEM must do better than it.

Voids are NaN. Among the cells they take the nearest known value before anything is interpolated.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import BSpline, LinearNDInterpolator
from scipy.ndimage import (
    binary_dilation, binary_fill_holes, distance_transform_edt, gaussian_filter, map_coordinates, spline_filter,
)
from scipy.sparse import csr_array

from sat2dem_core.errors import NoElevation

MIN_SHARE = 0.5  # of a cell's area that must be known for its mean to be known
ROUNDS = 3  # of adding what the means still miss; each leaves at most 0.6 of it, on smooth terrain a few percent
FLOOR = 1.0  # meters: the smallest local step, about the noise of global DEMs from one cell to the next
MARGIN = 12  # cells added around, equal to the nearest, as scipy does: the spline is level beyond the centers
REACH = 2.0  # cells: standard deviation of the Gaussian that smooths local steps


@dataclass(frozen=True, eq=False)
class CellGrid:
    """The cells of a coarse DEM, and where the pixels of an image lie among them.

    Attributes:
        rows, columns: coordinates of the pixels' centers in cells, which broadcast to (H, W); the center of the first
            cell is at (0, 0), and cells end halfway between centers.
        shape: number of cells, (h, w). Pixels may lie outside of them, and cells reach beyond the pixels.
        area: of a pixel, in cells: one number, or (H, W).
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]
    area: float | np.ndarray

    @classmethod
    def squares(cls, pixels: tuple[int, int], k: int) -> "CellGrid":
        """Cells of ``k`` x ``k`` px from the first pixel on; the last ones may reach beyond the pixels, (H, W)."""
        height, width = pixels
        return cls.from_affine((1 / k, 0, 0, 0, 1 / k, 0), pixels, (-(-height // k), -(-width // k)))

    @classmethod
    def from_affine(
        cls, transform: tuple[float, ...], pixels: tuple[int, int], shape: tuple[int, int]
    ) -> "CellGrid":
        """Cells on a grid that is scaled, moved or rotated against the pixels.

        Args:
            transform: from column and row of pixels to column and row of cells, both counted from the corner of the
                first, as the six numbers of an ``Affine``; of two rasters with a CRS, ``~coarse * fine``.
            pixels: (H, W).
            shape: number of cells, (h, w).
        """
        a, b, c, d, e, f = tuple(transform)[:6]
        y, x = np.arange(pixels[0])[:, None] + 0.5, np.arange(pixels[1])[None] + 0.5
        rows = (e * y + f if d == 0 else d * x + e * y + f) - 0.5
        columns = (a * x + c if b == 0 else a * x + b * y + c) - 0.5
        return cls(rows, columns, shape, abs(a * e - b * d))

    @classmethod
    def from_coordinates(cls, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> "CellGrid":
        """Cells on a grid of another projection.

        Args:
            rows, columns: (H, W) each, at least two pixels along each axis, as in the class.
            shape: number of cells, (h, w).
        """
        (rows_down, rows_along), (columns_down, columns_along) = np.gradient(rows), np.gradient(columns)
        return cls(rows, columns, shape, np.abs(rows_down * columns_along - rows_along * columns_down))

    @property
    def pixels(self) -> tuple[int, int]:
        """Of the image, (H, W)."""
        height, width = np.broadcast_shapes(self.rows.shape, self.columns.shape)
        return height, width

    @cached_property
    def index(self) -> np.ndarray:
        """The number of the cell that holds each pixel, (H, W), row by row; h * w for pixels outside."""
        row, column = (np.floor(part + 0.5).astype(int) for part in (self.rows, self.columns))
        inside = (row >= 0) & (row < self.shape[0]) & (column >= 0) & (column < self.shape[1])
        return np.where(inside, row * self.shape[1] + column, self.shape[0] * self.shape[1])

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean over each cell, (h, w), of the values, (H, W), that are known.

        It is NaN where less than half of the cell's area is known, be it for voids or since the cell reaches beyond
        the pixels.
        """
        count = self.shape[0] * self.shape[1] + 1
        known = ~np.isnan(values)
        index = self.index.ravel()
        area = np.where(known, self.area, 0.0).ravel()
        covered = np.bincount(index, area, count)
        sums = np.bincount(index, area * np.where(known, values, 0.0).ravel(), count)
        enough = covered >= MIN_SHARE - 1e-9  # exactly half, but for rounding
        return np.where(enough, sums / np.where(enough, covered, 1.0), np.nan)[:-1].reshape(self.shape)

    def at_pixels(self, cells: np.ndarray, order: int = 3, prefilter: bool = True) -> np.ndarray:
        """Cells (h, w) without voids, interpolated by a spline on the pixels, (H, W).

        The same as ``scipy.ndimage.map_coordinates`` with ``mode="nearest"``: level beyond the outermost centers.

        Args:
            order: 1 or 3.
            prefilter: whether the spline goes through the cells, or has them as its coefficients.
        """
        padded = np.pad(cells.astype(np.float64), MARGIN, mode="edge")
        coefficients = spline_filter(padded, order, mode="nearest") if prefilter and order > 1 else padded
        if self.rows.shape[1] == self.columns.shape[0] == 1:  # a product of two matrices: much faster
            down, along = (
                _basis(part.ravel() + MARGIN, count, order)
                for part, count in zip((self.rows, self.columns), coefficients.shape)
            )
            return (down @ coefficients) @ along.T
        at = [part + MARGIN for part in np.broadcast_arrays(self.rows, self.columns)]
        return map_coordinates(coefficients, at, order=order, mode="nearest", prefilter=False)


def _basis(positions: np.ndarray, count: int, order: int) -> csr_array:
    """The weights of ``count`` coefficients of a spline at positions, (N, count): ``order + 1`` in each row."""
    half = (order - 1) // 2
    knots = np.arange(count + order + 1) - (order + 1) / 2  # the basis function of a coefficient has its center there
    return csr_array(BSpline.design_matrix(positions.clip(half, count - 1 - half), knots, order))


def cell_means(dem: np.ndarray, k: int) -> np.ndarray:
    """A coarse DEM: the means of a DEM over squares of ``k`` x ``k`` px.

    Args:
        dem: (H, W) meters, NaN for voids.

    Returns:
        (h, w), with as many cells as it takes to cover all pixels. A cell is NaN where less than half of its ``k * k``
        pixels are known; pixels that a cell at the right or at the bottom lacks count as unknown.

    >>> cell_means(np.array([[1.0, 3.0, 5.0, 5.0, 9.0], [1.0, 3.0, np.nan, np.nan, 9.0]]), 2)
    array([[2., 5., 9.]])
    """
    return CellGrid.squares((dem.shape[0], dem.shape[1]), k).means(dem)


def bilinear(cells: np.ndarray, grid: CellGrid) -> np.ndarray:
    """Cells (h, w), interpolated linearly between their centers, on the pixels, (H, W).

    Raises:
        NoElevation: no cell is known.
    """
    return grid.at_pixels(fill_voids(cells), order=1)


def bicubic(cells: np.ndarray, grid: CellGrid) -> np.ndarray:
    """The cubic spline through the centers of cells, (h, w), on the pixels, (H, W).

    Raises:
        NoElevation: no cell is known.
    """
    return grid.at_pixels(fill_voids(cells))


def mean_keeping_spline(cells: np.ndarray, grid: CellGrid, rounds: int = ROUNDS) -> np.ndarray:
    """A smooth surface that has the cells' values as its means over the cells.

    It is the cubic spline through the cells' centers, to which the spline of what its means over the cells still miss
    is added several times.

    Args:
        cells: (h, w) meters. Means are kept in cells that are known and of whose area the pixels cover at least half.
        rounds: the more, the closer the means; without any it is :func:`bicubic`.

    Returns:
        (H, W) meters, without voids.

    Raises:
        NoElevation: no cell is known.
    """
    surface = bicubic(cells, grid)
    for _ in range(rounds):
        surface += grid.at_pixels(np.nan_to_num(cells - grid.means(surface)))
    return surface


class CellSpline:
    """The mean-keeping spline through square cells, whose pixels can be had some at a time.

    The same as :func:`mean_keeping_spline` on :meth:`CellGrid.squares`, as products of a matrix for the rows, the
    spline's coefficients, and a matrix for the columns, so that neither time nor memory grows faster than the pixels
    that are asked for.

    Args:
        cells: (h, w) at the cells' centers, NaN for voids.
        cell: side of a cell, px.
        shape: of the pixels, (H, W); the last cells may reach beyond them.
        rounds: see :func:`mean_keeping_spline`.
        beyond: number of rows and columns of cells on each side that hold no pixels, and only shape the surface.

    Raises:
        NoElevation: no cell is known.
    """

    def __init__(
        self, cells: np.ndarray, cell: int, shape: tuple[int, int], rounds: int = ROUNDS, beyond: int = 0
    ):
        self.cell, self.shape, self.beyond, self.cells = cell, shape, beyond, cells.shape
        self.coefficients = _coefficients(fill_voids(cells))
        for _ in range(rounds):
            self.coefficients += _coefficients(np.nan_to_num(cells - self.means()))

    def surface(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> np.ndarray:
        """The pixels from row ``top`` to ``bottom`` and from column ``left`` to ``right``, float32 meters."""
        columns = self._basis(left, self.shape[1] if right is None else right, 1)
        return (self._basis(top, bottom, 0) @ self.coefficients) @ columns.T

    def means(self) -> np.ndarray:
        """The mean of the surface over each cell, (h, w); NaN for cells without pixels."""
        rows, columns = (
            _averages(side, self.cell) @ self._basis(0, side, axis) for axis, side in enumerate(self.shape)
        )
        means = np.full(self.cells, np.nan)
        down, along = (slice(self.beyond, self.beyond + part.shape[0]) for part in (rows, columns))
        means[down, along] = (rows @ self.coefficients) @ columns.T
        return means

    def _basis(self, first: int, last: int, axis: int) -> csr_array:
        positions = (np.arange(first, last) + 0.5) / self.cell - 0.5 + self.beyond + MARGIN
        return _basis(positions, self.coefficients.shape[axis], 3).astype(np.float32)


def _coefficients(cells: np.ndarray) -> np.ndarray:
    """Those of the cubic spline through cells (h, w) without voids, with ``MARGIN`` more on each side."""
    padded = np.pad(cells.astype(np.float64), MARGIN, mode="edge")
    return spline_filter(padded, 3, mode="nearest").astype(np.float32)


def _averages(side: int, cell: int) -> csr_array:
    """The matrix that averages pixels over cells, (cells, side)."""
    cells = np.arange(side) // cell
    counts = np.bincount(cells)
    return csr_array(((1 / counts[cells]).astype(np.float32), (cells, np.arange(side))), (len(counts), side))


def detail(part: np.ndarray, grid: CellGrid) -> np.ndarray:
    """What a part (H, W) adds to the mean-keeping spline of its own means: added to a surface, it keeps its means."""
    return part - mean_keeping_spline(grid.means(part), grid)


def local_step(cells: np.ndarray) -> np.ndarray:
    """How much neighboring cells typically differ around each cell: the unit of heights within cells.

    The mean absolute difference of neighbors along rows and columns, weighted by a Gaussian of ``REACH`` cells.

    Args:
        cells: (h, w) meters.

    Returns:
        (h, w) meters, at least ``FLOOR``, without voids; :func:`smooth_on_pixels` lays it on pixels.
    """
    sums, counts = np.zeros(cells.shape), np.zeros(cells.shape)
    for axis in (0, 1):
        step = np.abs(np.diff(cells, axis=axis))
        known = ~np.isnan(step)
        for side in ((1, 0), (0, 1)):  # a step belongs to the cells on both of its sides
            pad = [side if dimension == axis else (0, 0) for dimension in (0, 1)]
            sums += np.pad(np.where(known, step, 0.0), pad)
            counts += np.pad(known, pad)
    if not counts.any():
        return np.full(cells.shape, FLOOR)
    weight = gaussian_filter(counts, REACH, mode="nearest")
    near = weight > 1e-6  # elsewhere no step is known within the Gaussian's reach
    step = np.where(near, gaussian_filter(sums, REACH, mode="nearest") / np.where(near, weight, 1.0), np.nan)
    return np.maximum(fill_voids(step), FLOOR)


def smooth_on_pixels(cells: np.ndarray, grid: CellGrid) -> np.ndarray:
    """Positive cells (h, w) without voids, such as steps, as a smooth surface that stays positive, (H, W).

    A cubic B-spline with the cells as its coefficients: a weighted mean of the 4 x 4 cells around each pixel.
    """
    return grid.at_pixels(cells, prefilter=False)


def fill_smoothly(cells: np.ndarray, reach: int = 5) -> np.ndarray:
    """Cells (h, w) with voids filled from the cells around them; farther from all known cells, NaN stays.

    A void that known cells surround is interpolated linearly on triangles between them, as between the points of a
    survey. At the border of a DEM the nearest cell continues for ``reach`` cells.
    """
    void = np.isnan(cells)
    inner = binary_fill_holes(~void) & void
    filled = cells.copy()
    if inner.any():
        rim = binary_dilation(inner, iterations=2) & ~void  # all that interpolation needs
        filled[inner] = LinearNDInterpolator(np.argwhere(rim), cells[rim])(np.argwhere(inner))
    if np.isnan(filled).any() and not void.all():
        distance, nearest = distance_transform_edt(np.isnan(filled), return_indices=True)
        filled = np.where(distance <= reach, filled[tuple(nearest)], np.nan)
    return filled


def fill_voids(cells: np.ndarray) -> np.ndarray:
    """Cells (h, w) with the nearest known value in place of voids.

    Raises:
        NoElevation: no cell is known.
    """
    void = np.isnan(cells)
    if void.all():
        raise NoElevation("no cell of the coarse DEM is known: give one that covers the image")
    nearest = distance_transform_edt(void, return_distances=False, return_indices=True)
    return cells[tuple(nearest)]
