"""Intervals over blocks of tiles and seeds: cases with a known answer, and faults that must raise an error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.errors import NoTiles, WrongShape
from sat2dem_core.evaluation.bootstrap import Difference, Estimate, bootstrap_mean, paired_difference


def errors_by_block(blocks: int, tiles: int = 3, seed: int = 0, sd: float = 10.0):
    """Errors of tiles that are equal within a block, and the block of each."""
    rng = np.random.default_rng(seed)
    return 100 + np.repeat(rng.normal(0, sd, blocks), tiles), [(number // tiles, 0) for number in range(blocks * tiles)]


def test_value_is_the_mean_of_all_pixels():
    result = bootstrap_mean(np.array([10.0, 20, np.nan, 40]), np.array([1, 3, 0, 1]), ["a", "a", "b", "c"])
    assert result.value == pytest.approx((10 + 60 + 40) / 5) and result.low <= result.value <= result.high


def test_tiles_of_one_block_are_no_more_evidence_than_the_block():
    few, blocks = errors_by_block(12, tiles=1)
    many, more = errors_by_block(12, tiles=25)
    narrow, wide = (bootstrap_mean(errors, np.ones(len(errors)), of) for errors, of in ((few, blocks), (many, more)))
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low)
    alone = bootstrap_mean(many, np.ones(len(many)), list(range(len(many))))
    assert (wide.high - wide.low) > 4 * (alone.high - alone.low)


def test_interval_contains_the_true_mean_as_often_as_its_level_promises():
    inside = 0
    for seed in range(150):
        errors, blocks = errors_by_block(25, seed=seed)
        result = bootstrap_mean(errors, np.ones(len(errors)), blocks, share=0.9, seed=seed)
        inside += result.low <= 100 <= result.high
    assert 0.80 <= inside / 150 <= 0.97


def test_different_seeds_widen_the_interval_and_equal_ones_do_not():
    errors, blocks = errors_by_block(40, sd=1)
    seeds = errors + np.array([-20, 0, 20])[:, None]
    alone, with_seeds = bootstrap_mean(errors, np.ones(120), blocks), bootstrap_mean(seeds, np.ones(120), blocks)
    assert with_seeds.value == pytest.approx(alone.value)
    assert (with_seeds.high - with_seeds.low) > 20 * (alone.high - alone.low)
    assert bootstrap_mean(np.stack([errors] * 3), np.ones(120), blocks)[1:] == pytest.approx(alone[1:])


def test_pairs_share_their_blocks_so_a_small_difference_between_unequal_blocks_is_significant():
    errors, blocks = errors_by_block(20, sd=50)
    rng = np.random.default_rng(1)
    result = paired_difference(errors + 3 + rng.normal(0, 1, 60), errors, np.ones(60), blocks)
    assert result.value == pytest.approx(3, abs=0.5) and result.significant and result.p < 0.01 and result.blocks == 20
    separate = [bootstrap_mean(own, np.ones(60), blocks) for own in (errors, errors + 3)]
    assert separate[0].high > separate[1].low


@given(seed=st.integers(0, 50), scale=st.floats(0.1, 10))
def test_difference_changes_sign_with_its_sides_and_scales_with_errors(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.gamma(3, 20, (2, 24))
    blocks, pixels = [number // 2 for number in range(24)], rng.integers(1, 9, 24)
    forth, back = paired_difference(a, b, pixels, blocks), paired_difference(b, a, pixels, blocks)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert forth.p == back.p
    scaled = paired_difference(scale * a, scale * b, pixels, blocks)
    assert scaled[:3] == pytest.approx([scale * value for value in forth[:3]])


def test_difference_of_several_trainings_worked_by_hand():
    """Tiles of 1, 3 and 4 px in three blocks; two trainings of one predictor, three of the other."""
    a = np.array([[10.0, 20, 30], [30, 40, 50]])  # means of the trainings 20, 30, 40: (20 + 90 + 160) / 8
    b = np.array([[1.0, 2, 3], [2, 3, 4], [6, 4, 8]])  # 3, 3, 5: (3 + 9 + 20) / 8
    result = paired_difference(a, b, np.array([1, 3, 4]), ["x", "y", "z"])
    assert result.value == pytest.approx(270 / 8 - 32 / 8) and result.blocks == 3
    # All blocks point the same way: of 8 draws of their signs, 2 give a sum as large.
    assert result.p == pytest.approx(2 / 8, abs=0.03)
    assert paired_difference(a / 100, b / 100, np.array([1, 3, 4]), ["x", "y", "z"]).p == result.p
    assert bootstrap_mean(a, np.array([1, 3, 4]), ["x", "y", "z"]).value == pytest.approx(270 / 8)
    swapped = paired_difference(b, a, np.array([1, 3, 4]), ["x", "y", "z"])
    assert swapped.value == pytest.approx(32 / 8 - 270 / 8) and swapped.significant


def test_no_p_value_is_below_one_in_4001():
    errors, blocks = errors_by_block(40)
    assert paired_difference(errors + 500, errors, np.ones(120), blocks).p == 1 / 4001


def test_interval_of_two_blocks_worked_by_hand():
    """Blocks of means 0 and 1: a quarter of the draws has mean 0, half 1/2, and a quarter 1."""
    errors = [np.array([0.0, 1.0]), np.ones(2), ["a", "b"]]
    assert bootstrap_mean(*errors, share=0.4) == (0.5, 0.5, 0.5)  # from 30 % to 70 % of the draws
    assert bootstrap_mean(*errors, share=0.6) == (0.5, 0, 1)  # from 20 % to 80 %
    assert bootstrap_mean(*errors, share=0.9) == bootstrap_mean(*errors)
    # of unequal size: all pixels of a draw count alike
    assert bootstrap_mean(np.array([0.0, 1.0]), np.array([1, 3]), ["a", "b"], share=0.4) == (0.75, 0.75, 0.75)


def test_seeds_are_drawn_as_the_blocks_are():
    """Two trainings of means 0 and 1 on blocks that do not differ: a quarter, half and a quarter of the draws."""
    errors = [np.array([[0.0] * 30, [1.0] * 30]), np.ones(30), list(range(30))]
    assert bootstrap_mean(*errors, share=0.4) == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap_mean(*errors, share=0.6) == pytest.approx((0.5, 0, 1))


def test_draws_are_those_of_seed_0_unless_told_otherwise():
    errors, blocks = errors_by_block(9)
    draws = [bootstrap_mean(errors, np.ones(27), blocks, **seed) for seed in ({}, {"seed": 0}, {"seed": 1})]
    assert draws[0] == draws[1] != draws[2]
    other = errors[::-1] ** 1.1
    pairs = [paired_difference(errors, other, np.ones(27), blocks, **seed) for seed in ({}, {"seed": 0}, {"seed": 1})]
    assert pairs[0] == pairs[1] != pairs[2]


def test_estimate_is_written_with_its_interval():
    assert str(Estimate(12.34, 10.06, 14.0)) == "12.3 (10.1 to 14.0)"


@pytest.mark.parametrize(
    ("low", "high", "significant"), [(0, 2, False), (-2, 0, False), (-1, 1, False), (0.1, 1, True)]
)
def test_a_difference_is_significant_where_its_interval_excludes_zero(low, high, significant):
    assert Difference(0.5, low, high, 0.5, 9).significant == significant


def test_predictor_does_not_differ_from_itself():
    errors, blocks = errors_by_block(6)
    result = paired_difference(errors, errors, np.ones(18), blocks)
    assert result.value == result.low == result.high == 0 and result.p == 1 and not result.significant


def test_p_value_is_small_by_chance_no_more_often_than_it_says():
    hits = 0
    for seed in range(100):
        a, b = np.random.default_rng(seed).gamma(3, 20, (2, 30))
        hits += paired_difference(a, b, np.ones(30), list(range(30))).p < 0.1
    assert 2 <= hits <= 20


def test_one_block_and_unequal_lengths_are_refused():
    with pytest.raises(NoTiles, match="at least 2 blocks with valid pixels, not 1: use smaller blocks"):
        bootstrap_mean(np.ones(3), np.ones(3), ["a"] * 3)
    with pytest.raises(WrongShape, match="errors of 3 tiles, pixels of 2, blocks of 3"):
        bootstrap_mean(np.ones(3), np.ones(2), ["a"] * 3)
