"""Whether a prediction's valleys lie where the truth has them: the channels that water takes over both, compared.

Water leaves each pixel for the lowest of its eight neighbors, hollows are filled to the brim, and nodata lets it out:
Wang and Liu (2006), doi 10.1080/13658810500433453, as pyflwdir has it. Networks are compared by completeness and
correctness, as roads are by Heipke et al. (1997, "Evaluation of automatic road extraction").

Only the order of heights decides where water runs: a wrong offset or scale costs nothing here. What flows into a tile
is unknown, to both sides alike, so the channels are those of water that falls on the tile.
"""

import math
from types import ModuleType

import numpy as np
from scipy.ndimage import maximum_filter
from torch import Tensor

from sat2dem_core.errors import InvalidConfig, WrongShape

PIXELS = 512  # that drain through a channel: 0.46 km² at 30 m
Elevation = Tensor | np.ndarray


def _router() -> ModuleType:
    try:
        import pyflwdir  # here, for it brings numba: 200 MB that nothing else needs
    except ImportError as error:
        raise InvalidConfig("drainage needs pyflwdir: pip install 'sat2dem-core[drainage]'") from error
    return pyflwdir


def _array(dem: Elevation) -> np.ndarray:
    return np.asarray(dem.detach().cpu() if isinstance(dem, Tensor) else dem, np.float32)  # pyflwdir's own precision


def channels(dem: Elevation, gsd: tuple[float, float], area: float | None = None) -> np.ndarray:
    """Where enough ground drains through a pixel to make it a channel: (H, W) bool, False at nodata.

    Args:
        dem: (H, W) meters, NaN for nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        area: enough ground, m²; by default that of 512 pixels. So channels are as many pixels apart on any grid, and
            a tolerance in pixels is as strict. A share of the tile would give a larger tile of the same ground fewer.

    Raises:
        InvalidConfig: pyflwdir is not installed.
    """
    ground = np.pad(_array(dem), 1, constant_values=-np.inf)  # else water at an edge runs along it: a false channel
    cells = _router().from_dem(ground, nodata=np.nan).upstream_area("cell")[1:-1, 1:-1]
    return cells >= (area / math.prod(gsd) if area else PIXELS)


class Drainage:
    """Shares of the channels found and of those drawn correctly, over any number of tiles.

    Args:
        gsd, area: see :func:`channels`; one area for truth and prediction, so that neither network is denser by choice.
        tolerance: how many rows and columns a channel may lie off, pixels.

    Raises:
        InvalidConfig: an area or a tolerance that means nothing, or pyflwdir is not installed.
    """

    def __init__(self, gsd: tuple[float, float], area: float | None = None, tolerance: int = 2):
        if (area is not None and not area > 0) or tolerance < 0:
            raise InvalidConfig(f"area {area} m² and tolerance {tolerance}: give an area above 0 and pixels from 0 on")
        _router()  # now, not after hours of predicting
        self.gsd, self.area, self.square = gsd, area, 2 * tolerance + 1
        self.counts = [0, 0, 0, 0]  # pixels: channels of the truth, of these found, drawn, of these correct

    def update(self, prediction: Elevation, truth: Elevation) -> None:
        """Add tiles (N, H, W) in meters; NaN in ``truth`` for nodata, where the prediction does not count either.

        Raises:
            WrongShape: they lie on different grids, or a prediction is NaN where there is a truth.
        """
        prediction, truth = _array(prediction), _array(truth)
        if prediction.shape != truth.shape or truth.ndim != 3:
            fault = f"prediction {prediction.shape} and truth {truth.shape} lie on different grids"
            raise WrongShape(f"{fault}: resample one onto the other first")
        if np.isnan(prediction[~np.isnan(truth)]).any():
            fault = "a prediction is NaN where the truth is known"
            raise WrongShape(f"{fault}: predict these pixels, or mask them in the truth")
        for pair in zip(np.where(np.isnan(truth), truth, prediction), truth):
            drawn, true = networks = [channels(dem, self.gsd, self.area) for dem in pair]
            near_drawn, near_true = (maximum_filter(network, self.square) for network in networks)
            counts = (true, true & near_drawn, drawn, drawn & near_true)
            self.counts = [count + int(pixels.sum()) for count, pixels in zip(self.counts, counts)]

    def result(self) -> dict[str, float | None]:
        """Of the truth's channel pixels the share with a predicted one near, and the reverse; None of no channel.

        Read both: channels everywhere find all, and a single sure one is all correct.
        """
        true, found, drawn, right = self.counts
        return {"channels found": found / true if true else None, "channels correct": right / drawn if drawn else None}
