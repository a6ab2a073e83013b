"""Linear shape from shading: relief within the cells of a coarse DEM, computed from brightness without training.

The classical answer to what a network is trained for here, and so a baseline. Where albedo is constant, log brightness
is a derivative of height along the direction to the sun (see :mod:`sat2dem_core.rasters.sun`), which has a closed
solution in the frequency domain: A. Pentland, Linear shape from shading, International Journal of Computer Vision 4(2),
153-162, 1990. Variations across the direction to the sun leave no trace in brightness, and albedo is not constant, so
the solution here is that of least squares with a penalty on slopes. That a coarse DEM can be refined by one image is
the idea of Carlotto 2000, doi 10.1117/1.602381.

Nothing is learned from a truth: azimuth and strength of the shading come from the coarse DEM itself.
"""

import numpy as np
from scipy import fft

from sat2dem_core.rasters.coarse import CellGrid, detail, mean_keeping_spline
from sat2dem_core.rasters.sun import CLIP, Shading, band, clipped, fit_shading, log_brightness

MIN_R = 0.2  # correlation below which shading counts as invisible
CHANCE = 3.0  # over the square root of the number of cells: the correlation that chance hardly reaches
WAVELENGTH = 20.0  # px, at which albedo disturbs shading as much as the fit says; finer, it disturbs more
BROAD = 2.0  # cells: standard deviation of the Gaussian that is subtracted from log brightness
TAPER = 2.0  # cells: zeros around the image, since the transform is periodic


def shape_from_shading(
    image: np.ndarray, cells: np.ndarray, grid: CellGrid, gsd: tuple[float, float], azimuth: float | None = None,
    wavelength: float = WAVELENGTH,
) -> np.ndarray:
    """Refine a coarse DEM by the shading of an image: the mean-keeping spline, and what brightness adds to it.

    The relief that brightness shows is added without its own means over the cells and their spline, so that the result
    has the means that the spline has. Where no shading is visible, the result is the spline.

    Args:
        image: (bands, H, W) of any unit, not negative; NaN or 0 in all bands is nodata.
        cells: (h, w) meters, NaN for voids.
        grid: where the pixels lie among the cells.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        azimuth: of the sun, degrees clockwise from the top of the image; by default the one that explains most.
        wavelength: px, see ``WAVELENGTH``; the longer, the smoother the relief.

    Returns:
        (H, W) meters, without voids.

    Raises:
        NoElevation: no cell is known.
    """
    spline = mean_keeping_spline(cells, grid)
    cell = float(np.mean(grid.area)) ** -0.5
    known = np.append(~np.isnan(cells), False)[grid.index]
    shading = fit_shading(image, np.where(known, spline, np.nan), gsd, cell, azimuth)
    if not is_visible(shading, int((~np.isnan(cells)).sum())):
        return spline
    return spline + detail(relief_from_shading(image, shading, gsd, cell, wavelength), grid)


def is_visible(shading: Shading, cells: int) -> bool:
    """Whether shading that was fitted to so many cells of a coarse DEM is there, rather than chance."""
    return shading.r >= max(MIN_R, CHANCE / np.sqrt(cells))


def relief_from_shading(
    image: np.ndarray, shading: Shading, gsd: tuple[float, float], cell: float, wavelength: float = WAVELENGTH
) -> np.ndarray:
    """The heights whose shading an image shows, in relief finer than a few cells.

    Least squares: heights h minimize ``|b - s D h|^2 + p |grad h|^2``, in which b is log brightness, s the strength of
    shading, and D the derivative away from the sun. The penalty p is the ratio of what disturbs brightness to relief:
    by the correlation r at the scale of cells ``s^2 (1 - r^2) / (2 r^2)``, as two directions share the gradient and one
    is seen; it grows with spatial frequency.

    Args:
        image: as in :func:`shape_from_shading`; where it has no data, no shading is seen.
        shading: of positive strength and r.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        cell: side of a cell, px.
        wavelength: px, see ``WAVELENGTH``.

    Returns:
        (H, W) meters, with a mean of about zero.
    """
    detail = clipped(band(log_brightness(image)[None], 0.0, BROAD * cell)[0], 2 * CLIP)
    margin = round(TAPER * cell) + 16
    padded = np.pad(np.nan_to_num(detail), margin)
    shape = [fft.next_fast_len(side, real=True) for side in padded.shape]
    down, along = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]  # cycles per px
    south, east = 2 * np.pi * down / gsd[0], 2 * np.pi * along / gsd[1]  # radians per meter
    angle = np.radians(shading.azimuth)
    response = -1j * shading.strength * (east * np.sin(angle) - south * np.cos(angle))
    disturbance = (1 - shading.r**2) / (2 * shading.r**2) * wavelength * np.hypot(down, along)
    power = np.abs(response) ** 2 + disturbance * shading.strength**2 * (south**2 + east**2)
    power[0, 0] = 1.0  # the mean is not seen: the response there is zero
    heights = fft.irfft2(response.conj() * fft.rfft2(padded, shape) / power, shape)
    return heights[margin : margin + detail.shape[0], margin : margin + detail.shape[1]]
