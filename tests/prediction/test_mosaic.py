import numpy as np
import pytest
from hypothesis import given, strategies as st

from sat2dem_core.errors import NoTiles
from sat2dem_core.prediction.mosaic import Blend, solve_levels, starts, step_between, window

SIZE = 16


def chain(levels):
    """Pairs and steps of a row of tiles, each of which overlaps the next two."""
    pairs = [(i, j) for i in range(len(levels)) for j in (i + 1, i + 2) if j < len(levels)]
    return np.array(pairs), np.array([levels[i] - levels[j] for i, j in pairs])


@given(st.integers(SIZE, 200), st.integers(1, SIZE))
def test_tiles_cover_a_side_and_stay_inside(length, stride):
    begins = starts(length, SIZE, stride)
    assert begins[0] == 0 and begins[-1] == length - SIZE and begins == sorted(set(begins))
    assert max(np.diff(begins), default=0) <= stride


def test_a_side_shorter_than_a_tile_is_refused():
    with pytest.raises(NoTiles, match="10 px"):
        starts(10, SIZE, 8)


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=12))
def test_levels_undo_what_was_added_to_each_tile(added):
    pairs, steps = chain(added)
    levels, groups = solve_levels(len(added), pairs, steps, np.ones(len(steps)))
    assert np.allclose(levels + added, np.mean(added), atol=1e-5 * (1 + np.ptp(added)))
    assert len(set(groups)) == 1 and abs(levels.mean()) < 1e-5 * (1 + np.ptp(added))


def test_one_outlier_among_the_overlaps_hardly_moves_the_levels():
    added = np.array([0.0, 30, -20, 50, 10, 5, -40, 0])
    pairs, steps = chain(added)
    steps[4] += 5000
    levels, _ = solve_levels(len(added), pairs, steps, np.ones(len(steps)))
    plain = np.linalg.lstsq((np.eye(8)[pairs[:, 1]] - np.eye(8)[pairs[:, 0]]), steps, rcond=None)[0]
    assert np.abs(levels + added - added.mean()).max() < 10 < np.abs(plain - plain.mean() + added - added.mean()).max()


def test_areas_that_do_not_touch_are_separate_groups():
    levels, groups = solve_levels(5, np.array([[0, 1], [3, 4]]), np.array([10.0, -6.0]), np.ones(2))
    assert groups[0] == groups[1] != groups[2] != groups[3] == groups[4]
    assert np.allclose(levels, [-5, 5, 0, 3, -3])


def test_no_overlap_at_all_leaves_every_tile_where_it_is():
    levels, groups = solve_levels(3, np.empty((0, 2)), np.empty(0), np.empty(0))
    assert not levels.any() and len(set(groups)) == 3


def test_a_step_is_measured_on_pixels_known_to_both():
    a, b = np.full((4, 4), 7.0), np.full((4, 4), 2.0)
    a[0], b[:, 0] = np.nan, np.nan
    assert step_between(a, b, np.ones((4, 4))) == (5.0, 9.0)
    assert step_between(a, np.full((4, 4), np.nan), np.ones((4, 4))) == (0.0, 0.0)


def test_windows_at_half_a_stride_sum_to_the_same_everywhere():
    side = window(SIZE).sum(0)
    assert np.allclose(side[: SIZE // 2] + side[SIZE // 2 :], side[0] + side[SIZE // 2])


def test_window_worked_by_hand():
    """sin² of an eighth and of three eighths of half a turn."""
    low, high = (1 - np.sqrt(0.5)) / 2, (1 + np.sqrt(0.5)) / 2
    side = np.array([low, high, high, low])
    np.testing.assert_allclose(window(4), side[:, None] * side, rtol=1e-6)


def test_two_tiles_at_one_place_blend_into_mean_and_spread_of_all_their_predictions():
    blend, ones = Blend(4, 4, 4), np.ones((4, 4))
    blend.add(1 * ones, 2 * ones, 10.0, 0, 0)
    blend.add(3 * ones, 4 * ones, 20.0, 0, 0)
    heights, spread, mark = blend.result()
    variance = ((1**2 + 2**2) + (3**2 + 4**2)) / 2 - 2**2
    np.testing.assert_allclose(heights, 2)
    np.testing.assert_allclose(spread, np.sqrt(variance))
    np.testing.assert_allclose(mark, 15)


@pytest.mark.parametrize(("row", "column", "covered"), [
    (-1, -2, (slice(0, 3), slice(0, 2))), (3, 5, (slice(3, 6), slice(5, 8))), (2, -3, (slice(2, 6), slice(0, 1))),
    (-4, 0, (slice(0, 0), slice(0, 0))), (6, 0, (slice(0, 0), slice(0, 0))), (0, 8, (slice(0, 0), slice(0, 0))),
    (0, -9, (slice(0, 0), slice(0, 0))), (9, 2, (slice(0, 0), slice(0, 0))), (2, 2, (slice(2, 6), slice(2, 6))),
])
def test_parts_of_a_tile_outside_the_mosaic_are_cut_off(row, column, covered):
    tile = 1 + np.arange(16.0).reshape(4, 4)
    blend, expected = Blend(6, 8, 4), np.full((6, 8), np.nan)
    blend.add(tile, 0 * tile, 1.0, row, column)
    expected[covered] = np.pad(tile, 9)[9 - row : 15 - row, 9 - column : 17 - column][covered]
    np.testing.assert_allclose(blend.result()[0], expected)


def test_a_step_is_a_weighted_mean():
    step, total = step_between(np.array([[5.0, 1.0]]), np.array([[1.0, 3.0]]), np.array([[3.0, 1.0]]))
    assert (step, total) == ((3 * 4 + 1 * -2) / 4, 4)


@given(st.integers(0, 2**32 - 1))
def test_tiles_of_one_surface_blend_into_it(seed):
    surface = np.random.default_rng(seed).normal(0, 100, (40, 56))
    blend, none = Blend(40, 56, SIZE), np.zeros((SIZE, SIZE))
    for row in starts(40, SIZE, 8):
        for column in starts(56, SIZE, 8):
            blend.add(surface[row : row + SIZE, column : column + SIZE], none, 0.5, row, column)
    heights, spread, mark = blend.result()
    assert np.allclose(heights, surface) and np.allclose(spread, 0, atol=1e-4) and np.allclose(mark, 0.5)


def test_a_part_of_the_mosaic_is_what_the_whole_has_there():
    rng = np.random.default_rng(0)
    tiles = {(row, column): rng.normal(0, 9, (2, SIZE, SIZE)) for row in starts(48, SIZE, 8) for column in (0, 8)}
    whole, part = Blend(48, 24, SIZE), Blend(10, 24, SIZE)
    for (row, column), (heights, spread) in tiles.items():
        whole.add(heights, np.abs(spread), row, row, column)
        part.add(heights, np.abs(spread), row, row - 21, column)
    for a, b in zip(whole.result(), part.result()):
        assert np.array_equal(a[21:31], b)


def test_pixels_that_no_tile_covers_are_nan():
    heights = np.ones((SIZE, SIZE))
    heights[3, 4] = np.nan
    blend = Blend(SIZE, SIZE + 1, SIZE)
    blend.add(heights, np.zeros((SIZE, SIZE)), 1.0, 0, 0)
    for band in blend.result():
        assert np.isnan(band[3, 4]) and np.isnan(band[:, -1]).all() and np.isnan(band).sum() == SIZE + 1
