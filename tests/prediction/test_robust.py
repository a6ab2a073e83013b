import numpy as np
import pytest
from hypothesis import given, strategies as st

from sat2dem_core.prediction.robust import huber_weights, robust_least_squares


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30))
def test_weights_lie_between_0_and_1_and_fall_with_the_residual(residuals):
    weights = huber_weights(np.array(residuals))
    assert (weights > 0).all() and (weights <= 1).all() and (np.diff(weights[np.argsort(np.abs(residuals))]) <= 0).all()


def mean_of(values: np.ndarray, calls: list):
    """A solver of the system ``mean = value``, which records its calls."""

    def solve(weights):
        calls.append(weights)
        mean = np.average(values, weights=weights)
        return mean, values - mean

    return solve


def test_blunders_hardly_move_the_solution():
    values = np.concatenate([np.random.default_rng(0).normal(50, 1, 40), [1000.0, 2000.0]])
    assert robust_least_squares(mean_of(values, []), len(values)) == pytest.approx(50, abs=1)
    assert values.mean() > 100


def test_rounds_end_at_the_tolerance_or_at_their_number():
    values, calls = np.array([0.0, 1, 2, 3, 40]), []
    exact = robust_least_squares(mean_of(values, calls), 5, rounds=60)
    assert len(calls) == 60 and np.array_equal(calls[0], np.ones(5))
    calls.clear()
    assert robust_least_squares(mean_of(values, calls), 5, rounds=60, tolerance=1e-3) == pytest.approx(exact, abs=0.1)
    assert 1 < len(calls) < 60
