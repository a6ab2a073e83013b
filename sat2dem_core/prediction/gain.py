"""How much of a refiner's relief to trust, measured on the image and the DEM at hand.

The refiner is asked the same question three times coarser: the image averaged over squares of pixels, the DEM over
squares of cells. To that question the answer is known: the DEM's own cells. The regression of the known relief on the
predicted one, near each place, is the gain. Where brightness has nothing to do with terrain, or the sun is wrong, it is
near zero, and the DEM stands; where the refiner is too cautious, it is above one.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from sat2dem_core.models.refiner import Refiner, windows
from sat2dem_core.rasters.coarse import CellGrid, CellSpline, cell_means, detail, local_step, smooth_on_pixels

FACTOR = 3  # how many times coarser
REACH = 9.0  # cells: standard deviation of the Gaussian over which the regression is local
EXPECTED, SPREAD = 0.9, 0.5  # mean and standard deviation of gains before anything is measured
SHARE = 1 / 4  # of the cells, how many count as independent
LARGEST = 1.1
Read = Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray]]  # see sat2dem_core.rasters.imagery.Image


def measure_gain(
    network: Refiner, read: Read, cells: np.ndarray, cell: int, shape: tuple[int, int], gsd: float, azimuth: float
) -> np.ndarray:
    """The factor on the refiner's relief in each cell, (h, w) from 0 to ``LARGEST``.

    Args:
        read: gives a window (row, column, height, width) of the image, (3, height, width), and its valid pixels.
        cells: (h, w) meters, without voids, from the image's first pixel on.
        cell: side of a cell, px.
        shape: of the image, px.
        gsd: ground sampling distance, meters.
        azimuth: of the sun, degrees clockwise from the top of the image.
    """
    nothing = np.full(cells.shape, EXPECTED)
    down, along = (side // (FACTOR * cell) for side in shape)  # whole coarse cells
    if min(down, along) < 2 or np.isnan(cells).any():
        return nothing
    known = cells[: down * FACTOR, : along * FACTOR]
    coarse = cell_means(known, FACTOR)
    predicted = _predicted(network, read, coarse, cell, known.shape, gsd, azimuth)
    grid = CellGrid.squares(known.shape, FACTOR)
    unit = smooth_on_pixels(local_step(coarse), grid)
    x, y = (detail(part, grid) / unit for part in (predicted, known))

    def nearby(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, REACH, mode="reflect")

    count = SHARE * min(4 * np.pi * REACH**2, x.size)
    evidence = count / np.maximum(nearby(y * y), 1e-12)
    prior = SPREAD**-2
    gain = (EXPECTED * prior + evidence * nearby(x * y)) / (prior + evidence * nearby(x * x))
    rest = tuple((0, whole - part) for whole, part in zip(cells.shape, gain.shape))
    return np.pad(gain, rest, mode="edge").clip(0, LARGEST)


def _predicted(
    network: Refiner, read: Read, coarse: np.ndarray, cell: int, cells: tuple[int, int], gsd: float, azimuth: float
) -> np.ndarray:
    """The mean over each of the DEM's cells, (h, w), of the relief predicted from what is three times coarser."""
    shape = coarse.shape[0] * cell, coarse.shape[1] * cell  # of the coarser image, px
    spline = CellSpline(coarse, cell, shape)
    sums, counts = np.zeros(cells), np.zeros(cells)
    for inner, (rows, columns), place in windows(*shape):
        place_and_size = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        pixels, valid = read(*(FACTOR * number for number in place_and_size))
        image = _averaged(pixels, valid)
        surface = spline.surface(rows.start, rows.stop, columns.start, columns.stop)
        relief = np.where(image.max(0) > 0, network.window(image, surface, cell, gsd * FACTOR, azimuth)[0], 0.0)[place]
        down, along = ((np.arange(part.start, part.stop) * FACTOR + FACTOR // 2) // cell for part in inner)
        np.add.at(sums, np.ix_(down, along), relief)
        np.add.at(counts, np.ix_(down, along), 1.0)
    return sums / np.maximum(counts, 1)


def _averaged(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Means over squares of ``FACTOR`` px of an image (3, H, W); 0 where one of them is nodata."""
    bands, height, width = pixels.shape
    squares = (height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    means = pixels.reshape(bands, *squares).mean((2, 4), dtype=np.float32)
    return np.where(valid.reshape(squares).all((1, 3)), means, 0).astype(np.float32)
