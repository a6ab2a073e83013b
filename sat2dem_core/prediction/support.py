"""Over which share of a prediction its heights are tied to anchors.

Relief is known about the mean of its surroundings, one tile wide. So a pixel counts as tied if an anchor lies no
farther than one tile away, and its group of connected tiles holds one.
"""

from dataclasses import dataclass

import numpy as np
import zarr
from scipy.ndimage import distance_transform_edt

from sat2dem_core.prediction.anchors import Anchors, Fit
from sat2dem_core.prediction.work import ROWS

BLOCKS = 8  # in the width of a tile: how finely distances are measured


@dataclass(frozen=True)
class Support:
    """How much of a prediction is tied to anchors.

    Attributes:
        share: of the predicted pixels that are absolute.
        relative: number of groups of connected tiles without an anchor.
        groups: number of all groups.
    """

    share: float
    relative: int
    groups: int

    def heights(self) -> str:
        """What the tag ``HEIGHTS`` says."""
        if self.share > 0.995:
            return "absolute"
        return f"absolute over {max(1, round(100 * self.share))} %"


def measure_support(fit: Fit, anchors: Anchors, store: zarr.Group, tile: int) -> Support:
    """Measure which share of the predicted pixels has an anchor within one tile, and one in its group.

    Args:
        store: of the mosaic.
        tile: side of a tile, px.
    """
    assert fit.table is not None
    used = fit.table[fit.table.used]
    block = max(1, tile // BLOCKS)
    height, width = -(-fit.shape[0] // block), -(-fit.shape[1] // block)
    near = np.zeros((height, width), bool)
    near[used.row // block, used.column // block] = True
    if anchors.cells is not None and anchors.cell > block:
        cells = np.zeros(anchors.cells.shape, bool)
        cells[used.row // anchors.cell, used.column // anchors.cell] = True
        rows, columns = ((np.arange(count) * block + block // 2) // anchors.cell for count in (height, width))
        near |= cells[np.ix_(np.minimum(rows, len(cells) - 1), np.minimum(columns, cells[0].size - 1))]
    within = distance_transform_edt(~near) * block <= tile
    tied, predicted = _count(store, fit, within, block)
    return Support(tied / max(1, predicted), int((~fit.anchored).sum()), len(fit.anchored))


def _count(store: zarr.Group, fit: Fit, within: np.ndarray, block: int) -> tuple[int, int]:
    """The number of pixels that are tied, and of those that are predicted."""
    tied = predicted = 0
    for top in range(0, fit.shape[0], ROWS):
        known = ~np.isnan(store["elevation"][top : top + ROWS])
        predicted += int(known.sum())
        if "group" in store:
            known &= fit.anchored[store["group"][top : top + ROWS]]
        rows, columns = (top + np.arange(len(known))) // block, np.arange(fit.shape[1]) // block
        tied += int((known & within[np.ix_(rows, columns)]).sum())
    return tied, predicted
