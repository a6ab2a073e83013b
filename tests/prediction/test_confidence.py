import numpy as np
import pytest
from hypothesis import given, strategies as st

from sat2dem_core.errors import NoTiles
from sat2dem_core.prediction.confidence import Domain, Interval, features


@given(st.integers(0, 1000), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_interval_covers_its_share_of_unseen_errors(seed, share):
    rng = np.random.default_rng(seed)
    spread = rng.gamma(2, 10, 6000)
    error = rng.normal(0, 1, 6000) * (20 + 2 * spread)  # errors grow with the spread
    interval = Interval.calibrate(error[:3000], spread[:3000], share)
    covered = np.abs(error[3000:]) <= interval.half_width(spread[3000:])
    assert abs(covered.mean() - share) < 0.05


def test_the_interval_is_wider_where_the_ensemble_disagrees():
    interval = Interval.calibrate(np.array([1.0, -2, 3, -4, 5] * 20), np.array([1.0, 2, 3, 4, 5] * 20))
    narrow, wide = interval.half_width(np.array([1.0, 9.0]))
    assert interval.factor > 0 and wide > narrow


def test_without_an_ensemble_the_interval_has_one_width():
    errors = np.arange(-100.0, 101)
    interval = Interval.calibrate(errors, np.zeros(201))
    assert interval.factor == 0 and 90 <= interval.base <= 92


def test_nothing_to_calibrate_on_is_an_error():
    with pytest.raises(NoTiles, match="known truth"):
        Interval.calibrate(np.array([np.nan]), np.array([1.0]))


def textured(count: int, seed: int) -> np.ndarray:
    """Tiles of smooth texture, (count, 3, 32, 32) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 25, (count, 1, 8, 8)).repeat(4, 2).repeat(4, 3) + rng.normal(0, 5, (count, 3, 32, 32))
    return (120 + rng.normal(0, 8, (count, 3, 1, 1)) + coarse).clip(0, 255).astype(np.uint8)


def test_foreign_images_are_out_of_domain_and_similar_ones_are_not():
    domain = Domain.fit(textured(400, 0))
    assert (domain.distance(textured(200, 1)) > 1).mean() < 0.05
    sea = np.broadcast_to(np.uint8([10, 30, 60]).reshape(1, 3, 1, 1), (1, 3, 32, 32))
    noise = np.random.default_rng(0).integers(0, 255, (1, 3, 32, 32), dtype=np.uint8)
    snow = textured(1, 2) // 8 + 220
    swapped = textured(1, 3) * np.array([0.4, 1, 1.6]).reshape(1, 3, 1, 1)
    for foreign in (sea, noise, snow, swapped.clip(0, 255).astype(np.uint8)):
        assert domain.distance(foreign)[0] > 1


def test_features_are_finite_whatever_the_tile():
    for value in (0, 128, 255):
        assert np.isfinite(features(np.full((1, 3, 32, 32), value, np.uint8))).all()
