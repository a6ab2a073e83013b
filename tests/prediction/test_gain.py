"""How much relief to trust, measured on an image and a DEM."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sat2dem_core.prediction.gain import EXPECTED, LARGEST, measure_gain
from sat2dem_core.rasters.coarse import cell_means

K, SIDE = 4, 240


class Literal:
    """In place of a network: takes brightness for height, in meters."""

    def window(self, image, surface, cell, gsd, azimuth):
        return image[0] - gaussian_filter(image[0], 2 * cell), np.ones_like(surface)


def heights(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1000 + sum(12 * s**1.5 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (3, 6, 12, 24))


def gain_of(brightness, terrain, cell=K):
    image = np.stack([brightness] * 3).astype(np.float32)

    def read(row, column, height, width):
        pixels = image[:, row : row + height, column : column + width]
        return pixels, pixels.max(0) > 0

    return measure_gain(Literal(), read, cell_means(terrain, cell), cell, terrain.shape, 30.0, 140.0)


def test_what_is_right_is_trusted():
    gain = gain_of(heights(0), heights(0))
    assert gain.shape == (SIDE // K, SIDE // K) and gain.min() > 0.8 and gain.max() <= LARGEST


def test_what_is_too_strong_is_lowered():
    assert gain_of(1000 + 4 * (heights(0) - 1000), heights(0)).mean() == pytest.approx(0.25, abs=0.1)


def test_what_is_upside_down_or_of_elsewhere_is_not_trusted():
    assert gain_of(2000 - heights(0), heights(0)).max() < 0.1
    assert gain_of(heights(1), heights(0)).mean() < 0.25


def test_trust_is_local():
    half = np.arange(SIDE) < SIDE // 2
    gain = gain_of(np.where(half, 2000 - heights(0), heights(0)), heights(0))
    assert gain[:, -8:].mean() > 0.8 and gain[:, :8].mean() < 0.2


def test_where_nothing_can_be_measured_it_is_what_is_expected():
    assert (gain_of(heights(0), heights(0), cell=100) == EXPECTED).all()
