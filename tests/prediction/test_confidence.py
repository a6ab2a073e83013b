from dataclasses import FrozenInstanceError

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


def test_interval_worked_by_hand():
    """A typical spread of 2 m is added to each: errors of 3, 4, 2, 12, 8 m over 3, 4, 4, 6, 8 m."""
    error, spread = np.array([-3.0, 4, 2, -12, 8, np.nan, 1]), np.array([1.0, 2, 2, 4, 6, 1, np.inf])
    for share, factor in ((0.5, 1.0), (0.6, 1.0), (0.7, 2.0), (0.1, 0.5), (1.0, 2.0)):  # of 0.5, 1, 1, 1, 2
        interval = Interval.calibrate(error, spread, share)  # the (5 + 1) share-th score, rounded up
        assert (interval.base, interval.factor, interval.share) == (2 * factor, factor, share)
    assert Interval.calibrate(error, spread) == Interval(4.0, 2.0, 0.9)
    assert Interval(4.0, 2.0).half_width(np.array([0.0, 3.0])).tolist() == [4, 10]


def test_interval_stays_open_where_most_predictions_agree():
    """A typical spread of 0 counts as 1 m: errors of 1, 2, 3, 10 m over 1, 1, 1, 5 m."""
    errors, spread = np.array([1.0, 2, 3, 10]), np.array([0.0, 0, 0, 4])
    assert Interval.calibrate(errors, spread, 0.5) == Interval(2.0, 2.0, 0.5)  # the third of 1, 2, 2, 3
    assert Interval.calibrate(errors, 0 * spread, 0.5) == Interval(3.0, 0.0, 0.5)  # the third of 1, 2, 3, 10


def test_intervals_and_domains_cannot_be_changed():
    for fitted, field in ((Interval(1.0, 2.0), "base"), (Domain(np.zeros(8), np.eye(8), 1.0), "limit")):
        with pytest.raises(FrozenInstanceError):
            setattr(fitted, field, 5.0)


FIFTHS = np.array([  # red, green, blue of 8 pixels in a row, in fifths of 255; gray in fifteenths: 6 3 3 6 12 12 15 0
    [4, 0, 1, 2, 3, 4, 5, 0],
    [1, 2, 0, 0, 4, 5, 5, 0],
    [1, 1, 2, 4, 5, 3, 5, 0],
])


def test_features_worked_by_hand():
    gray = np.array([6, 3, 3, 6, 12, 12, 15, 0]) / 15
    contrast = gray.std()
    red, blue = np.array([3, -2, 1, 2, -1, -1, 0, 0]) / 5, np.array([0, -1, 2, 4, 1, -2, 0, 0]) / 5
    fine, coarse = (3 + 0 + 3 + 6 + 0 + 3 + 15) / 15 / 7, (6 + 9 + 12 + 6) / 15 / 4  # at 1 and at 4 pixels
    expected = [
        57 / 15 / 8, np.log(contrast + 0.01), 2 / 5 / 8, 4 / 5 / 8, red.std() + blue.std(),
        np.log((fine + 0.001) / (contrast + 0.01)), np.log((coarse + 0.001) / (contrast + 0.01)), 2 / 8,
    ]
    tiles = np.stack([FIFTHS * 51, FIFTHS * 0 + 51])[:, :, None].repeat(2, 2).astype(np.uint8)  # two equal rows each
    ours = features(tiles)
    np.testing.assert_allclose(ours[0], expected, rtol=1e-5)
    np.testing.assert_allclose(ours[1], [0.2, np.log(0.01), 0, 0, 0, np.log(0.1), np.log(0.1), 0], atol=1e-4)


def test_pixels_below_1_and_above_99_percent_are_saturated():
    row = np.array([2, 3, 252, 253, 255, 0, 100, 100], np.uint8)  # 0.8, 1.2, 98.8, 99.2 % of 255
    assert features(np.broadcast_to(row, (1, 3, 1, 8)))[0, -1] == 4 / 8


def test_distance_is_mahalanobis_over_what_one_training_tile_in_a_hundred_exceeds():
    tiles = textured(60, 0)
    domain, rows = Domain.fit(tiles), features(tiles)
    covariance = np.cov(rows.T) + 0.0001 * np.eye(8)
    distances = np.array([np.sqrt(row @ np.linalg.inv(covariance) @ row) for row in rows - rows.mean(0)])
    assert domain.limit == pytest.approx(np.quantile(distances, 0.99))
    np.testing.assert_allclose(domain.distance(tiles), distances / domain.limit)


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
