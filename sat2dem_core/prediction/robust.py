"""Least squares in which large residuals count less (Huber 1964, doi 10.1214/aoms/1177703732).

The minimum is found by iterative reweighting: solve, weight each equation by its residual, solve again.
"""

from collections.abc import Callable

import numpy as np

NORMAL_SD = 1.4826  # times the median absolute residual: the standard deviation of normal residuals
THRESHOLD = 1.345  # standard deviations up to which a residual counts in full: 95 % efficient for normal errors


def huber_weights(residuals: np.ndarray) -> np.ndarray:
    """The weight of each equation: 1 up to the threshold, and inversely proportional to the residual above it.

    >>> huber_weights(np.array([1.0, -1.0, 1.0, 10.0])).round(2).tolist()
    [1.0, 1.0, 1.0, 0.2]
    """
    sizes = np.abs(residuals)
    threshold = max(THRESHOLD * NORMAL_SD * np.median(sizes), 1e-6)
    return np.minimum(1, threshold / np.maximum(sizes, threshold))


def robust_least_squares(
    solve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], count: int, rounds: int = 20, tolerance: float = 0.0
) -> np.ndarray:
    """Solve an overdetermined system with Huber's loss.

    Args:
        solve: solves the system by ordinary least squares, given a weight for each equation, (count,), and returns the
            solution and the residuals, (count,).
        count: number of equations.
        rounds: how often the system is solved at most.
        tolerance: the loop ends once no weight changes by this much; 0 for all rounds.

    Returns:
        The solution of the last round.
    """
    weights = np.ones(count)
    for _ in range(rounds):
        solution, residuals = solve(weights)
        weights, previous = huber_weights(residuals), weights
        if np.abs(weights - previous).max() < tolerance:
            break
    return solution
