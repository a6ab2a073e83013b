"""Confidence in a prediction: a prediction interval for each height, and a distance from the training distribution.

The spread of an ensemble (overlapping tiles, a tile and its mirror image, other seeds) shows where errors are large,
but not how large they are. Conformal calibration (Romano, Patterson & Candes 2019, arXiv 1905.03222) turns the spread
into a prediction interval: on an area held out from training, it finds the factor for which the interval covers the
truth at the nominal rate. Images out of domain are detected by their Mahalanobis distance from the training tiles in a
few features.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sat2dem_core.errors import NoTiles

SHARE = 0.9  # nominal coverage of a prediction interval


@dataclass(frozen=True)
class Interval:
    """A prediction interval that covers the truth in ``share`` of all pixels.

    It reaches ``base + factor * spread`` meters above and below each height.
    """

    base: float
    factor: float
    share: float = SHARE

    @classmethod
    def calibrate(cls, error: np.ndarray, spread: np.ndarray, share: float = SHARE) -> "Interval":
        """Choose the width on pixels whose true height is known and that were not trained on.

        Args:
            error: (N,) prediction minus truth, meters.
            spread: (N,) standard deviation of the ensemble, meters; zeros for a single prediction.
            share: nominal coverage.

        Raises:
            NoTiles: no pixel has both an error and a spread.
        """
        known = np.isfinite(error) & np.isfinite(spread)
        if not known.any():
            raise NoTiles("there is no pixel with known truth to calibrate the interval on: give more tiles")
        error, spread = np.abs(error[known]).astype(np.float64), spread[known].astype(np.float64)
        typical = float(np.median(spread)) or 1.0  # keeps the interval from closing where the ensemble happens to agree
        scores = np.sort(error / (spread + typical))
        rank = min(math.ceil((len(scores) + 1) * share), len(scores))
        factor = float(scores[rank - 1])
        return cls(factor * typical, factor if spread.any() else 0.0, share)

    def half_width(self, spread: np.ndarray) -> np.ndarray:
        """Half the width of the interval, meters, of the shape of ``spread`` (meters)."""
        return self.base + self.factor * spread


@dataclass(frozen=True)
class SlopeInterval:
    """A prediction interval whose width depends on the slope of a coarse DEM, for a DEM that was refined.

    It reaches a share of the DEM's local unit of height above and below each height.

    Attributes:
        cells: sides of cells that it was calibrated for, px, rising.
        edges: of the classes of slope between them, rise over run, rising.
        shares: one row for each of ``cells`` with the share for each class, one more than there are edges.
        share: nominal coverage.
    """

    cells: tuple[float, ...]
    edges: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    share: float = SHARE

    @classmethod
    def read(cls, stored: dict[str, Any]) -> "SlopeInterval":
        """From JSON, which knows lists alone."""
        shares = tuple(map(tuple, stored["shares"]))
        return cls(tuple(stored["cells"]), tuple(stored["edges"]), shares, stored["share"])

    @classmethod
    def calibrate(
        cls, errors: dict[float, tuple[np.ndarray, np.ndarray]], edges: tuple[float, ...], share: float = SHARE
    ) -> "SlopeInterval":
        """Choose the widths on pixels of regions that were not trained on.

        Args:
            errors: by the side of cells, px: absolute errors in units of height, (N,), and the slopes there, (N,). A
                class that no pixel is in takes the share of the class below.
            edges: see the class.
            share: nominal coverage.

        Raises:
            NoTiles: there is no pixel to calibrate on.
        """
        rows = []
        for cell, (error, slope) in sorted(errors.items()):
            if not len(error):
                raise NoTiles(f"there is no pixel with known truth to calibrate cells of {cell:g} px on: give more")
            number = np.digitize(slope, edges)
            row: list[float] = []
            for index in range(len(edges) + 1):
                scores = np.sort(error[number == index])
                rank = min(math.ceil((len(scores) + 1) * share), len(scores))
                row.append(float(scores[rank - 1]) if len(scores) else (row or [float(np.quantile(error, share))])[-1])
            rows.append(tuple(row))
        return cls(tuple(map(float, sorted(errors))), tuple(edges), tuple(rows), share)

    def half_width(self, unit: np.ndarray, cell: float, gsd: float) -> np.ndarray:
        """Half the width of the interval, meters, of the shape of ``unit``.

        Args:
            unit: of height, meters; see :func:`sat2dem_core.models.refiner.look`.
            cell: side of a cell, px; between those of ``cells`` the share is interpolated.
            gsd: ground sampling distance, meters.
        """
        at = np.log([min(max(cell, self.cells[0]), self.cells[-1])])
        known = np.log(self.cells)
        shares = np.array([np.interp(at, known, column)[0] for column in zip(*self.shares)])
        return unit * shares[np.digitize(unit / (cell * gsd), self.edges)]


@dataclass(frozen=True)
class Domain:
    """The training distribution of images: mean and inverse covariance of :func:`features`.

    Attributes:
        mean: (8,) of the features.
        precision: (8, 8) inverse of their covariance.
        limit: the Mahalanobis distance that one training tile in a hundred exceeds.
    """

    mean: np.ndarray
    precision: np.ndarray
    limit: float

    @classmethod
    def fit(cls, tiles: np.ndarray) -> "Domain":
        """Fit the distribution to training tiles (N, 3, T, T) uint8."""
        rows = features(tiles)
        # The small diagonal tolerates some variation of a feature that is constant in training.
        covariance = np.cov(rows.T) + 1e-4 * np.eye(rows.shape[1])
        mean, precision = rows.mean(0), np.linalg.inv(covariance)
        return cls(mean, precision, float(np.quantile(_mahalanobis(rows - mean, precision), 0.99)))

    def distance(self, tiles: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of tiles (N, 3, T, T) uint8 over ``limit``, (N,): above 1, a tile is out of domain."""
        return _mahalanobis(features(tiles) - self.mean, self.precision) / self.limit


def features(tiles: np.ndarray) -> np.ndarray:
    """Describe each tile by eight numbers: (N, 3, T, T) uint8 to (N, 8).

    They are: brightness, log contrast, mean of red minus green and of blue minus green, the variation of these two, log
    texture at one and at four pixels relative to the contrast, and the share of saturated pixels.
    """
    rgb = tiles.astype(np.float32) / 255
    gray = rgb.mean(1)
    contrast = gray.std((1, 2))
    red, blue = rgb[:, 0] - rgb[:, 1], rgb[:, 2] - rgb[:, 1]
    fine = np.abs(np.diff(gray, axis=2)).mean((1, 2))
    coarse = np.abs(gray[:, :, 4:] - gray[:, :, :-4]).mean((1, 2))
    saturated = ((gray < 0.01) | (gray > 0.99)).mean((1, 2))
    rows = [
        gray.mean((1, 2)), np.log(contrast + 0.01), red.mean((1, 2)), blue.mean((1, 2)),
        red.std((1, 2)) + blue.std((1, 2)),
        np.log((fine + 1e-3) / (contrast + 1e-2)), np.log((coarse + 1e-3) / (contrast + 1e-2)), saturated,
    ]
    return np.stack(rows, 1).astype(np.float64)


def _mahalanobis(offset: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The Mahalanobis distance of each row of ``offset`` (N, 8) from the origin, (N,)."""
    return np.sqrt(np.einsum("ni,ij,nj->n", offset, precision, offset).clip(0))
