"""Splits by area, by blocks and as in the paper: no tile in two parts, and no neighbor where the split forbids it."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.dataset.splits import block_of, divide, paper_split, split_groups
from sat2dem_core.dataset.tiles import cut
from sat2dem_core.errors import NoTiles

# From the paper's facts: SHA-256 of the comma-joined tile numbers of each split's three parts.
CHECKSUMS = {
    1: ("a5fd9e287498ba2985282e0884d966bcb5224729e53ca6e6f0c36e0c3d0c36e2",
        "0956f16f0473e3e20c3e65ff6f0346757341e67c400e0314ca1aa3cc3022f664",
        "25062be609c5afa4edac0d5d2c1c96691de3e98d663356b83e725e8c4f96012d"),
    2: ("ee42069ff09885d3ce944b455a222c86da0fff2f383aa550a5888c281607d44c",
        "5c27bc8cc01a6d09bdb4f46eb88afc1d789312417954e723e2b72ba0287f1794",
        "f2d8c6738f4f9e839f9205793ace460a2059e10394a46646becb5fa270ade229"),
    3: ("c898e9db457ec768630a706098b569764c2a0f5cb822e7336a5b75938dddf911",
        "f0cc9b9c26fa15bcc524d01de63e1c770fbaac081b3251893b846fda51eb632f",
        "bd44d221703529a5ef94522165e9e3e2453af7c9172b5b3f5a59a0ef3500dba2"),
    4: ("7a130e53d1af598433bd9f3a3a156acdeaf31d6eb2212951f462ada46c95e91b",
        "ae91f29df8a14d7d7a9cbbd4360e86a3aaf465c2a355b852fc4ba4173811b883",
        "9cc0eca3d31197afb8376cab3a9eb7ebd8a4ad316aca1df754699990da70de8b"),
}


@pytest.mark.parametrize("version", CHECKSUMS)
def test_paper_splits_are_the_papers(version):
    parts = paper_split(version)
    assert [len(part) for part in parts] == [7165, 1535, 1537]
    assert tuple(hashlib.sha256(",".join(map(str, part)).encode()).hexdigest() for part in parts) == CHECKSUMS[version]


def test_paper_split_leaves_the_global_random_state_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    paper_split(1, 100)
    assert random.random() == expected


@pytest.fixture(scope="module")
def large_scene(make_scene):
    """A scene from which those of the next test are cut."""
    return make_scene(268, 268)


@given(
    size=st.sampled_from([32, 64]), more=st.tuples(*[st.integers(0, 50)] * 4), gap=st.integers(0, 40),
    stride=st.integers(3, 70),
)
def test_no_tile_comes_within_the_gap_of_another_region(large_scene, size, more, gap, stride):
    north, south, west, east = (size + extra for extra in more)
    height, width = north + gap + south, west + gap + east
    scene = large_scene.isel(y=slice(height), x=slice(width))
    regions = divide(scene, test=east / width, validation=south / height, gap=gap)
    train, *held_out = (cut(region, size, stride) for region in regions)
    image, elevation = scene.rgb.values, scene.dem.values
    for part in (train, *held_out):  # corners count in the undivided scene
        for (row, column), rgb, dem in zip(part.corners, part.rgb, part.dem):
            window = slice(row, row + size), slice(column, column + size)
            assert np.array_equal(rgb, image[:, *window]) and np.array_equal(dem, elevation[window])
    pairs = [(train, held_out[0]), (train, held_out[1]), (held_out[0], held_out[1])]
    for one, other in pairs:
        steps = np.abs(one.corners[:, None] - other.corners[None])  # (N, M, 2)
        assert (steps.max(-1) - size).min() >= gap  # px between the nearest edges


def test_regions_are_east_south_and_the_rest(hills):
    train, validation, test = divide(hills, test=0.4, validation=0.25, gap=10)
    assert dict(train.sizes) == {"band": 3, "y": 86, "x": 86}
    assert dict(validation.sizes) == {"band": 3, "y": 32, "x": 86} and validation.attrs["origin"] == (96, 0)
    assert dict(test.sizes) == {"band": 3, "y": 128, "x": 64} and test.attrs["origin"] == (0, 96)


def test_regions_without_a_gap_meet(hills):
    train, validation, test = divide(hills, gap=0)
    assert train.sizes["y"] + validation.sizes["y"] == 128
    assert train.sizes["x"] + test.sizes["x"] == 160


@pytest.mark.parametrize(
    "wrong", [{"test": 0}, {"test": 1}, {"validation": 0}, {"validation": 1.5}, {"gap": -1}, {"gap": 200}],
)
def test_shares_that_leave_a_region_empty_are_refused(hills, wrong):
    (name, value), = wrong.items()
    with pytest.raises(NoTiles, match=rf"{name}.*{value}.*128 x 160 px scene empty: choose shares between 0 and 1"):
        divide(hills, **wrong)


def test_regions_of_a_region_count_in_the_whole_scene(make_scene):
    scene = make_scene(300, 100)
    south = divide(scene, validation=0.6)[1]
    for part in divide(south, gap=3, test=0.5, validation=0.5)[:2]:
        row, column = part.attrs["origin"]
        assert row >= 120
        height, width = part.dem.shape
        np.testing.assert_array_equal(part.dem, scene.dem[row : row + height, column : column + width])


@pytest.fixture(scope="module")
def grids(make_scene):
    """Tiles of 32 and of 64 px, side by side."""
    scene = make_scene(640, 512)
    return {size: cut(scene, size) for size in (32, 64)}


@given(seed=st.integers(0, 20), size=st.sampled_from([32, 64]))
def test_blocks_go_into_one_part_whole(grids, seed, size):
    tiles = grids[size]
    parts = split_groups(block_of(tiles, 2), seed)
    assert sorted(sum(parts, [])) == list(range(len(tiles)))
    blocks = [{tuple(tiles.corners[number] // (2 * size)) for number in part} for part in parts]
    assert not blocks[0] & blocks[1] and not blocks[0] & blocks[2] and not blocks[1] & blocks[2]
    assert parts == split_groups(block_of(tiles, 2), seed)
    assert 0.5 <= len(parts[0]) / len(tiles) <= 0.8


def test_too_few_blocks_are_refused(make_scene):
    with pytest.raises(NoTiles, match="4 tiles in 1 blocks leave a part of the split empty"):
        split_groups(block_of(cut(make_scene(64, 64), 32)), 0)
