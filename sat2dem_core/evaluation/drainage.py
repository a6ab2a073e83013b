"""Whether a prediction's valleys lie where the true ones do, judged by the channels that water takes over both.

Water flows from each pixel to the lowest of its eight neighbors, depressions are filled to their rim, and nodata is an
outlet: Wang and Liu (2006), doi 10.1080/13658810500433453, as pyflwdir implements it. Channel networks are compared by
completeness and correctness, as road networks are by Heipke et al. (1997, "Evaluation of automatic road extraction").

Only the order of heights decides where water flows, so a wrong offset or scale changes nothing here. Inflow into a tile
is unknown, for truth and prediction alike, so the channels carry only water that falls on the tile.
"""

import math
from types import ModuleType

import numpy as np
from scipy.ndimage import maximum_filter
from torch import Tensor

from sat2dem_core.errors import InvalidConfig
from sat2dem_core.evaluation.measures import check_pair

PIXELS = 512  # that drain through a channel: 0.46 km² at 30 m
Elevation = Tensor | np.ndarray


def _router() -> ModuleType:
    try:
        import pyflwdir  # only here: it brings numba, 200 MB that nothing else needs
    except ImportError as error:
        raise InvalidConfig("drainage needs pyflwdir: pip install 'sat2dem-core[drainage]'") from error
    return pyflwdir


def _array(dem: Elevation) -> np.ndarray:
    return np.asarray(dem.detach().cpu() if isinstance(dem, Tensor) else dem, np.float32)  # pyflwdir's own precision


def channels(dem: Elevation, gsd: tuple[float, float], area: float | None = None) -> np.ndarray:
    """Pixels through which a large enough area drains to make them a channel: (H, W) bool, False at nodata.

    Args:
        dem: (H, W) meters, NaN for nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        area: large enough, m²; by default that of 512 pixels. So channels are equally many pixels apart on any grid,
            and a tolerance in pixels is equally strict. (A share of the tile would give larger tiles fewer channels.)

    Raises:
        InvalidConfig: pyflwdir is not installed.
    """
    padded = np.pad(_array(dem), 1, constant_values=-np.inf)  # otherwise water runs along an edge: a false channel
    upstream = _router().from_dem(padded, nodata=np.nan).upstream_area("cell")[1:-1, 1:-1]
    return upstream >= (area / math.prod(gsd) if area else PIXELS)


class Drainage:
    """Completeness and correctness of predicted channels, accumulated over tiles.

    Args:
        gsd, area: see :func:`channels`; truth and prediction share one area, so neither network is denser by choice.
        tolerance: how many rows and columns a channel may lie off, pixels.

    Raises:
        InvalidConfig: the area is not positive, the tolerance is negative, or pyflwdir is not installed.
    """

    def __init__(self, gsd: tuple[float, float], area: float | None = None, tolerance: int = 2):
        if (area is not None and not area > 0) or tolerance < 0:
            raise InvalidConfig(f"area {area} m² and tolerance {tolerance}: give an area above 0 and pixels from 0 on")
        _router()  # raises now rather than after hours of predicting
        self.gsd, self.area, self.square = gsd, area, 2 * tolerance + 1
        self.counts = [0, 0, 0, 0]  # channel pixels: true, of these found, predicted, of these correct

    def update(self, prediction: Elevation, truth: Elevation) -> None:
        """Add tiles (N, H, W) in meters; NaN in ``truth`` for nodata, where the prediction does not count either.

        Raises:
            WrongShape: they lie on different grids, or a prediction is NaN where there is a truth.
        """
        prediction, truth = _array(prediction), _array(truth)
        check_pair(prediction, truth)
        for pair in zip(np.where(np.isnan(truth), truth, prediction), truth):
            predicted, true = networks = [channels(dem, self.gsd, self.area) for dem in pair]
            near_predicted, near_true = (maximum_filter(network, self.square) for network in networks)
            masks = (true, true & near_predicted, predicted, predicted & near_true)
            self.counts = [count + int(mask.sum()) for count, mask in zip(self.counts, masks)]

    def result(self) -> dict[str, float | None]:
        """``channels found``, completeness: the share of true channel pixels with a predicted channel within the
        tolerance; and ``channels correct``, the reverse share. None where there is no channel.

        Both belong together: channels everywhere find all, and a single certain one is all correct.
        """
        true, found, predicted, correct = self.counts
        return {
            "channels found": found / true if true else None,
            "channels correct": correct / predicted if predicted else None,
        }
