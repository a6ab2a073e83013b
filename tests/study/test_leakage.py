"""Folds that test every tile once, and cross-validation on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.config import Config
from sat2dem_core.dataset.splits import block_of
from sat2dem_core.dataset.tiles import cut
from sat2dem_core.errors import NoTiles
from sat2dem_core.study.leakage import COLUMNS, cross_validate, folds


@pytest.fixture(scope="module")
def tiles(make_scene):
    return cut(make_scene(512, 512), 32)


@given(block=st.sampled_from([1, 2, 4]), count=st.integers(3, 5), seed=st.integers(0, 30))
def test_every_tile_is_tested_once_and_blocks_stay_whole(tiles, block, count, seed):
    block_by_tile, tested = block_of(tiles, block), []
    for parts in folds(tiles, block, count, seed):
        assert sorted(sum(parts, [])) == list(range(len(tiles)))
        blocks = [{block_by_tile[number] for number in part} for part in parts]
        assert not blocks[0] & blocks[1] and not blocks[0] & blocks[2] and not blocks[1] & blocks[2]
        tested += parts[2]
    assert sorted(tested) == list(range(len(tiles)))


def test_too_few_blocks_or_folds_are_refused(make_scene):
    tiles = cut(make_scene(128, 128), 32)
    with pytest.raises(NoTiles, match="4 blocks of 2 x 2 tiles make no 5 folds: take 3 or more, and smaller blocks"):
        list(folds(tiles, 2, 5))
    with pytest.raises(NoTiles, match="make no 2 folds"):
        list(folds(tiles, 1, 2))


def test_tiles_of_larger_blocks_are_farther_from_training_tiles(make_scene):
    config = Config(tile=32, stride=32, features=4, batch=4, steps=2)
    table = cross_validate(config, blocks=(1, 2), count=3, scene=make_scene(192, 192))
    assert table.groupby("block").tile.nunique().tolist() == [36, 36] and len(table) == 72
    near, far = table.groupby("block").distance.mean()
    assert near < far
    same = table.pivot(index="tile", columns="block", values="tile mean: relief")
    assert (same[1] == same[2]).all()  # does not depend on the training tiles
    assert list(table) == ["block", "fold", *COLUMNS]
    assert (table[["absolute", "above minimum", "relief"]] > 0).all(axis=None)
