"""A run's data: a scene or a store in three parts, with its normalization."""

from dataclasses import replace

import numpy as np
import pytest

from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
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
