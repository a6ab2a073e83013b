"""A run's data: a scene or a store in three parts, with its normalization."""

from dataclasses import replace

import numpy as np
import pytest

from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import Data, every_tile, prepare
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import InvalidConfig, NoTiles, WrongShape


def test_training_tiles_overlap_and_held_out_test_tiles_do_not(hills, small):
    data = prepare(small, hills)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 4)
    corners = data.test.corners
    assert (corners[:, None] == corners).all(-1).sum() == len(corners)
    assert (np.abs(corners[:, None] - corners).max(-1) >= 32).sum() == len(corners) * (len(corners) - 1)


def test_paper_split_shuffles_all_tiles_into_disjoint_parts(hills, small):
    data = prepare(replace(small, split="paper", version=2), hills)
    ids = data.train.ids + data.validation.ids + data.test.ids
    assert len(set(ids)) == len(ids) == 63 and len(data.train) == 44
    assert ids != prepare(replace(small, split="paper", version=3), hills).train.ids


def test_too_few_tiles_for_the_papers_split_are_refused(hills, small):
    with pytest.raises(NoTiles, match="4 tiles are too few for the paper's split: choose smaller tiles or stride"):
        prepare(replace(small, split="paper", tile=64, stride=64), hills)


def test_scene_too_small_for_a_region_is_refused(hills, small):
    with pytest.raises(NoTiles, match="smaller than one tile of 64 px: choose smaller tiles"):
        prepare(replace(small, tile=64), hills)


def test_crops_see_other_data_than_tiles(hills, small):
    assert prepare(replace(small, crops=True), hills).fingerprint() != prepare(small, hills).fingerprint()


def test_crops_of_a_store_are_refused(many):
    with pytest.raises(InvalidConfig, match="many.zarr is a store of tiles: set crops=false"):
        prepare(preset("cpu", scene=str(many), tile=256, crops=True))


def test_the_normalization_is_that_of_all_tiles(hills, small):
    data = prepare(small, hills)
    dem = np.concatenate([part.dem for part in (data.train, data.validation, data.test)])
    relief = dem.max((1, 2)) - dem.min((1, 2))
    assert (data.normalization.low, data.normalization.high) == (dem.min(), dem.max())
    assert data.normalization.relief == relief.max()


def test_a_store_is_a_scene_to_train_on(many):
    data = prepare(preset("cpu", scene=str(many), tile=256))
    assert len(data.train) + len(data.validation) + len(data.test) == 64
    assert 990 < data.normalization.low < 1010 and 1630 < data.normalization.high < 1640
    with pytest.raises(WrongShape, match="have 256 px: set tile=256"):
        prepare(preset("cpu", scene=str(many), tile=64))


def test_every_tile_of_a_store_or_a_scene(many, hills, small, monkeypatch):
    tiles, source = every_tile(preset("cpu", scene=str(many), tile=256))
    assert len(tiles) == 64 and source == f"store {many}"
    with pytest.raises(WrongShape, match="have 256 px, and the run's have 64 px: give a store of such tiles, or a sc"):
        every_tile(preset("cpu", scene=str(many), tile=64))
    tiles, source = every_tile(small, hills)
    assert len(tiles) == 4 * 5 and source == "scene hills, given in Python"
    holed = hills.assign(dem=hills.dem.where(hills.x > hills.x[0]))
    assert len(every_tile(small, holed)[0]) == 4 * 4


def test_data_name_their_source_and_the_same_tiles_have_one_fingerprint(many, hills, small):
    named, given = prepare(small), prepare(small, open_scene("rocky-mountain"))
    assert named.source == "scene rocky-mountain" and given.source == "scene rocky-mountain, given in Python"
    assert named.fingerprint() == given.fingerprint()
    assert prepare(small, hills.assign_attrs(name=None)).source == "a scene given in Python"
    assert prepare(preset("cpu", scene=str(many), tile=256)).source == f"store {many}"
    assert Data(named.train, named.validation, named.test, named.normalization).source == "tiles given in Python"
