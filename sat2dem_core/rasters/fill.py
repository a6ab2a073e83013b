"""Fill that a file does not declare: a margin of one value with straight edges, as a warp or a mosaic leaves it.

Snow that saturates a sensor and water that is black also have one value in every band, but ragged edges.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from rasterio.features import shapes
from scipy.ndimage import label
from shapely.geometry import shape

MIN_SHARE = 0.01  # of the picture
TOLERANCE = 2.5  # px: a slanted edge is a staircase
LONG = 0.05  # of the picture's shorter side: the shortest line that counts as straight
STRAIGHT = 0.9  # share of the edges inside the picture that must be long lines


@dataclass(frozen=True)
class Margin:
    """An area of one value at the border of a picture.

    Attributes:
        value: that all bands have there.
        share: of the picture.
        straight: whether its edges are straight, so that it can only be fill.
    """

    value: float
    share: float
    straight: bool


def find_margin(values: np.ndarray, valid: np.ndarray) -> Margin | None:
    """The largest undeclared margin of a picture whose value is 0 or the highest of an integer type.

    Args:
        values: (bands, H, W).
        valid: (H, W) bool, where the file declares data.
    """
    highest = [float(np.iinfo(values.dtype).max)] if values.dtype.kind in "iu" else []
    margins = [_margin_of(value, (values == value).all(0) & valid) for value in (0.0, *highest)]
    return max((margin for margin in margins if margin), key=lambda margin: margin.share, default=None)


def _margin_of(value: float, same: np.ndarray) -> Margin | None:
    if same.mean() < MIN_SHARE:
        return None
    areas, _ = label(same, np.ones((3, 3)))
    at_border = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    margin = np.isin(areas, at_border[at_border > 0])
    share = float(margin.mean())
    return Margin(value, share, _has_straight_edges(margin)) if share >= MIN_SHARE else None


def _has_straight_edges(margin: np.ndarray) -> bool:
    """Whether the edges of an area that are not the picture's are long lines, nearly all of them."""
    height, width = margin.shape
    outlines = [shape(outline) for outline, inside in shapes(margin.astype(np.uint8), mask=margin)]
    inner = shapely.box(0.5, 0.5, width - 0.5, height - 0.5)
    lengths = []
    for outline in outlines:
        edges = shapely.line_merge(shapely.intersection(outline.boundary, inner))
        for line in shapely.get_parts(shapely.simplify(edges, TOLERANCE)):
            corners = shapely.get_coordinates(line)
            lengths.append(np.hypot(*np.diff(corners, axis=0).T))
    if not lengths:
        return False
    every = np.concatenate(lengths)
    long = max(LONG * min(height, width), 3 * TOLERANCE)  # in a picture of few pixels every line is short
    return bool(every[every >= long].sum() >= STRAIGHT * every.sum())
