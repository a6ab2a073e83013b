"""Anchors that disagree with their neighbors and with the rest far beyond the usual: voids, blunders, other units."""

import warnings

import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter
from scipy.spatial import KDTree

from sat2dem_core.errors import InvalidAnchors
from sat2dem_core.prediction.robust import NORMAL_SD

# Robust standard deviations from the neighbors beyond which an anchor is a blunder. benchmarks/outliers.py measures
# what true cells of real coarse DEMs reach, and what voids among them do.
FAR, FAR_OF_FEW = 14.0, 8.0
FEW = 100  # anchors
LEAST = 20.0  # meters: no smaller deviation is called a blunder
ENOUGH = 8  # anchors that can outvote a wrong one
MANY = 0.1  # share of anchors beyond which they are refused as a whole
NEIGHBORS = 8
WINDOW, REGION = 5, 15  # cells: around one, and nearby
STEEP = 1.0  # rise over run between the centers of cells
COARSER = 4  # cells that become one at each step, so that voids larger than a window are found, too
FOOT = 0.3048


def deviations_on_grid(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each cell of a grid lies from its neighbors, at the scale at which it stands out most.

    Args:
        difference: (h, w) anchor minus prediction, meters, NaN where unknown.

    Returns:
        (h, w) meters, and (h, w) in units of the usual deviation at that scale; NaN where unknown.
    """
    deviation = scaled = np.zeros_like(difference)
    step, level = 1, difference
    while True:
        smooth = median_filter(_filled(level), size=WINDOW, mode="reflect")
        around = smooth.repeat(step, 0).repeat(step, 1)[: difference.shape[0], : difference.shape[1]]
        here = difference - around
        worse = np.abs(here / _usual(here)) > np.abs(scaled)
        scaled, deviation = np.where(worse, here / _usual(here), scaled), np.where(worse, here, deviation)
        if max(level.shape) <= WINDOW:
            break
        step, level = step * COARSER, _coarser(level)
    unknown = np.isnan(difference)
    return np.where(unknown, np.nan, deviation), np.where(unknown, np.nan, scaled)


def wrong_cells(cells: np.ndarray, side: float, source: object) -> np.ndarray:
    """The cells of a coarse DEM that no terrain explains, (h, w) bool; warns of them.

    A cell is wrong if it lies farther from the median of the cells around it than a slope of ``STEEP`` explains, and
    ``FAR`` times as far as cells nearby usually do. benchmarks/outliers.py counts how many true cells that refuses.

    Args:
        cells: (h, w) meters, NaN for voids.
        side: of a cell, meters.
    """
    if np.isnan(cells).all():
        return np.zeros(cells.shape, bool)
    filled = _filled(cells)
    deviation = cells - median_filter(filled, WINDOW, mode="reflect")
    usual = NORMAL_SD * median_filter(_filled(np.abs(deviation)), REGION, mode="reflect")
    wrong = (np.abs(deviation) > STEEP * side) & (np.abs(deviation) > FAR * np.maximum(usual, 1.0))
    if wrong.any():
        worst = np.flatnonzero(wrong)[np.argsort(-np.abs(deviation[wrong]))][:3]
        examples = ", ".join(f"{cells.flat[i]:.0f} m among {(cells - deviation).flat[i]:.0f} m" for i in worst)
        warnings.warn(
            f"{source}: {int(wrong.sum()):,} of {cells.size:,} cells disagree with their neighbors and count as voids "
            f"({examples})", stacklevel=3,
        )
    return wrong


def deviations_of_points(residual: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each point lies from the fit, or from its neighbors if that stands out more.

    Args:
        residual: (N,) anchor minus fitted surface, meters.
        places: (N, 2) rows and columns.

    Returns:
        (N,) meters, and (N,) in units of the usual deviation.
    """
    scaled = residual / _usual(residual)
    if len(residual) < 3 * NEIGHBORS:
        return residual, scaled
    nearest = KDTree(places).query(places, k=NEIGHBORS + 1)[1][:, 1:]
    local = residual - np.median(residual[nearest], axis=1)
    worse = np.abs(local / _usual(local)) > np.abs(scaled)
    return np.where(worse, local, residual), np.where(worse, local / _usual(local), scaled)


def without_outliers(
    height: np.ndarray, deviation: np.ndarray, scaled: np.ndarray, source: object
) -> np.ndarray:
    """Which anchors to use, (N,) bool; warns of those that are left out.

    Args:
        height: (N,) of the anchors, meters.
        deviation, scaled: (N,) each; see above.

    Raises:
        InvalidAnchors: too many are outliers; the message has the likely cause.
    """
    if len(height) < ENOUGH:
        return np.ones(len(height), bool)
    wrong = (np.abs(scaled) > (FAR_OF_FEW if len(height) < FEW else FAR)) & (np.abs(deviation) > LEAST)
    count, expected = int(wrong.sum()), height - deviation
    if not count:
        return ~wrong
    worst = np.flatnonzero(wrong)[np.argsort(-np.abs(scaled[wrong]))][:3]
    examples = ", ".join(f"{height[index]:.0f} m where {expected[index]:.0f} m fit" for index in worst)
    if count > max(1, MANY * len(wrong)):
        raise InvalidAnchors(
            f"{source}: {count:,} of {len(wrong):,} anchors disagree with the others ({examples}): "
            f"{likely_cause(height[wrong], expected[wrong])}"
        )
    warnings.warn(
        f"{source}: {count:,} of {len(wrong):,} anchors disagree with their neighbors and are left out ({examples})",
        stacklevel=4,
    )
    return ~wrong


def likely_cause(height: np.ndarray, expected: np.ndarray) -> str:
    """A sentence about what may be wrong with heights, (N,) meters, where others were expected."""
    ratio = float(np.median(height / np.where(np.abs(expected) < 1, np.nan, expected)))
    if np.ptp(height) < 1:
        return f"{np.median(height):g} is probably a void; declare it as nodata with gdal_edit.py -a_nodata"
    if abs(ratio * FOOT - 1) < 0.1:
        return "they are probably in feet; convert them to meters"
    if abs(ratio / FOOT - 1) < 0.1:
        return "they are probably meters among feet; convert all to meters"
    if abs(ratio + 1) < 0.1:
        return "their sign is probably wrong"
    return "check their place, their unit and their vertical datum"


def _usual(deviation: np.ndarray) -> float:
    known = np.abs(deviation[~np.isnan(deviation)])
    return max(float(NORMAL_SD * np.median(known)) if len(known) else 0.0, 1e-3)


def _filled(values: np.ndarray) -> np.ndarray:
    """Values with each unknown one replaced by the nearest known one."""
    unknown = np.isnan(values)
    if not unknown.any():
        return values
    return values[tuple(distance_transform_edt(unknown, return_distances=False, return_indices=True))]


def _coarser(values: np.ndarray) -> np.ndarray:
    """The medians of blocks of ``COARSER`` x ``COARSER`` cells; NaN where all are unknown."""
    height, width = (-(-side // COARSER) for side in values.shape)
    missing = [(0, height * COARSER - values.shape[0]), (0, width * COARSER - values.shape[1])]
    blocks = np.pad(values, missing, constant_values=np.nan).reshape(height, COARSER, width, COARSER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of blocks that are unknown
        return np.nanmedian(blocks, axis=(1, 3))
