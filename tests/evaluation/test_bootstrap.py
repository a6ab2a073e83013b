"""Intervals over blocks of ground and seeds: cases with a known answer, and what must never pass in silence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.errors import NoTiles, WrongShape
from sat2dem_core.evaluation.bootstrap import bootstrap_mean, paired_difference


def ground(blocks: int, tiles: int = 3, seed: int = 0, sd: float = 10.0):
    """Errors of tiles that are alike within a block, and the block of each."""
    rng = np.random.default_rng(seed)
    return 100 + np.repeat(rng.normal(0, sd, blocks), tiles), [(number // tiles, 0) for number in range(blocks * tiles)]


def test_value_is_the_mean_of_all_pixels():
    found = bootstrap_mean(np.array([10.0, 20, np.nan, 40]), np.array([1, 3, 0, 1]), ["a", "a", "b", "c"])
    assert found.value == pytest.approx((10 + 60 + 40) / 5) and found.low <= found.value <= found.high


def test_tiles_of_one_block_are_no_more_evidence_than_the_block():
    few, blocks = ground(12, tiles=1)
    many, more = ground(12, tiles=25)
    narrow, wide = (bootstrap_mean(errors, np.ones(len(errors)), of) for errors, of in ((few, blocks), (many, more)))
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low)
    alone = bootstrap_mean(many, np.ones(len(many)), list(range(len(many))))
    assert (wide.high - wide.low) > 4 * (alone.high - alone.low)


def test_interval_holds_the_true_mean_about_as_often_as_it_says():
    inside = 0
    for seed in range(150):
        errors, blocks = ground(25, seed=seed)
        found = bootstrap_mean(errors, np.ones(len(errors)), blocks, share=0.9, seed=seed)
        inside += found.low <= 100 <= found.high
    assert 0.80 <= inside / 150 <= 0.97


def test_seeds_widen_the_interval_and_ground_is_not_mistaken_for_them():
    errors, blocks = ground(40, sd=1)
    seeds = errors + np.array([-20, 0, 20])[:, None]
    alone, with_seeds = bootstrap_mean(errors, np.ones(120), blocks), bootstrap_mean(seeds, np.ones(120), blocks)
    assert with_seeds.value == pytest.approx(alone.value) and (with_seeds.high - with_seeds.low) > 20 * (alone.high - alone.low)
    assert bootstrap_mean(np.stack([errors] * 3), np.ones(120), blocks)[1:] == pytest.approx(alone[1:])


def test_pairs_share_their_ground_so_a_small_difference_on_uneven_ground_is_seen():
    errors, blocks = ground(20, sd=50)
    rng = np.random.default_rng(1)
    found = paired_difference(errors + 3 + rng.normal(0, 1, 60), errors, np.ones(60), blocks)
    assert found.value == pytest.approx(3, abs=0.5) and not found.noise and found.p < 0.01 and found.blocks == 20
    apart = [bootstrap_mean(own, np.ones(60), blocks) for own in (errors, errors + 3)]
    assert apart[0].high > apart[1].low


@given(seed=st.integers(0, 50), scale=st.floats(0.1, 10))
def test_comparison_turns_round_with_its_sides_and_scales(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.gamma(3, 20, (2, 24))
    blocks, pixels = [number // 2 for number in range(24)], rng.integers(1, 9, 24)
    forth, back = paired_difference(a, b, pixels, blocks), paired_difference(b, a, pixels, blocks)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low)) and forth.p == back.p
    assert paired_difference(scale * a, scale * b, pixels, blocks)[:3] == pytest.approx([scale * value for value in forth[:3]])


def test_predictor_and_itself_are_the_same():
    errors, blocks = ground(6)
    found = paired_difference(errors, errors, np.ones(18), blocks)
    assert found.value == found.low == found.high == 0 and found.p == 1 and found.noise


def test_chance_parts_two_alike_no_more_often_than_p_says():
    hits = 0
    for seed in range(100):
        a, b = np.random.default_rng(seed).gamma(3, 20, (2, 30))
        hits += paired_difference(a, b, np.ones(30), list(range(30))).p < 0.1
    assert 2 <= hits <= 20


def test_what_gives_no_interval_is_said():
    with pytest.raises(NoTiles, match="1 block of ground says nothing about others: use smaller blocks"):
        bootstrap_mean(np.ones(3), np.ones(3), ["a"] * 3)
    with pytest.raises(WrongShape, match="errors of 3 tiles, pixels of 2, blocks of 3"):
        bootstrap_mean(np.ones(3), np.ones(2), ["a"] * 3)
