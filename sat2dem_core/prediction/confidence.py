"""How far to trust a prediction: an interval about each height, and where the image is unlike any that was trained on.

The spread of an ensemble (tiles that overlap, an image and its mirror image, other seeds) says where errors are large,
but not how large. Conformal calibration (Romano, Patterson & Candes 2019, arXiv 1905.03222) turns it into an interval:
on ground that no training saw, find the factor with which it holds the truth as often as it says.
"""

import math
from dataclasses import dataclass

import numpy as np

from sat2dem_core.errors import NoTiles

SHARE = 0.9


@dataclass(frozen=True)
class Interval:
    """Half the width of an interval that holds the truth in ``share`` of all pixels: ``base + factor * spread``, meters."""

    base: float
    factor: float
    share: float = SHARE

    @classmethod
    def calibrate(cls, error: np.ndarray, spread: np.ndarray, share: float = SHARE) -> "Interval":
        """Choose the width on ground with known truth.

        Args:
            error: (N,) prediction minus truth, meters.
            spread: (N,) standard deviation of the ensemble, meters; zeros for none.

        Raises:
            NoTiles: there is no error to learn from.
        """
        known = np.isfinite(error) & np.isfinite(spread)
        if not known.any():
            raise NoTiles("no pixel with known truth is left to calibrate the interval on")
        error, spread = np.abs(error[known]).astype(np.float64), spread[known].astype(np.float64)
        usual = float(np.median(spread)) or 1.0  # keeps the interval from closing where the ensemble happens to agree
        score = np.sort(error / (spread + usual))
        rank = min(math.ceil((len(score) + 1) * share), len(score))
        factor = float(score[rank - 1])
        return cls(factor * usual, factor if spread.any() else 0.0, share)

    def half_width(self, spread: np.ndarray) -> np.ndarray:
        return self.base + self.factor * spread


@dataclass(frozen=True)
class Domain:
    """What training images look like, as mean and inverse covariance of :func:`features`.

    Attributes:
        limit: Mahalanobis distance that one training tile in a hundred exceeds.
    """

    mean: np.ndarray
    precision: np.ndarray
    limit: float

    @classmethod
    def fit(cls, tiles: np.ndarray) -> "Domain":
        """Learn from training tiles (N, 3, T, T) uint8."""
        rows = features(tiles)
        spread = np.cov(rows.T) + 1e-4 * np.eye(rows.shape[1])  # a feature that never varies in training may vary a little
        mean, precision = rows.mean(0), np.linalg.inv(spread)
        return cls(mean, precision, float(np.quantile(_mahalanobis(rows - mean, precision), 0.99)))

    def distance(self, tiles: np.ndarray) -> np.ndarray:
        """How far tiles (N, 3, T, T) uint8 lie outside: up to 1 is like training, more is unlike it."""
        return _mahalanobis(features(tiles) - self.mean, self.precision) / self.limit


def features(tiles: np.ndarray) -> np.ndarray:
    """What a tile looks like in few numbers: (N, 3, T, T) uint8 to (N, 8).

    Brightness, contrast, the balance of red and of blue against green and how much it varies, texture at one and at
    four pixels relative to the contrast, and the share of saturated pixels.
    """
    share = tiles.astype(np.float32) / 255
    gray = share.mean(1)
    contrast = gray.std((1, 2))
    red, blue = share[:, 0] - share[:, 1], share[:, 2] - share[:, 1]
    fine = np.abs(np.diff(gray, axis=2)).mean((1, 2))
    coarse = np.abs(gray[:, :, 4:] - gray[:, :, :-4]).mean((1, 2))
    saturated = ((gray < 0.01) | (gray > 0.99)).mean((1, 2))
    rows = [
        gray.mean((1, 2)), np.log(contrast + 0.01), red.mean((1, 2)), blue.mean((1, 2)), red.std((1, 2)) + blue.std((1, 2)),
        np.log((fine + 1e-3) / (contrast + 1e-2)), np.log((coarse + 1e-3) / (contrast + 1e-2)), saturated,
    ]
    return np.stack(rows, 1).astype(np.float64)


def _mahalanobis(offset: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ni,ij,nj->n", offset, precision, offset).clip(0))
