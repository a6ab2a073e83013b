import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.dataset.splits import block_of, divide, paper_split, split_groups
from sat2dem_core.dataset.tiles import check_tile_size, cut
from sat2dem_core.errors import NoTiles, WrongShape

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


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_every_power_of_two_is_a_tile_size(size, make_scene):
    tiles = cut(make_scene(520, 512), size)
    assert len(tiles) == (520 // size) * (512 // size)
    assert tiles.rgb.shape[1:] == (3, size, size) and tiles.dem.shape[1:] == (size, size) and tiles.size == size


@pytest.mark.parametrize("size", [0, 16, 48, 63, 1024, -64])
def test_other_tile_sizes_are_refused_with_the_valid_ones(size, hills):
    with pytest.raises(WrongShape, match=f"tile of {size} px .* choose 32, 64, 128, 256, 512"):
        cut(hills, size)
    with pytest.raises(WrongShape):
        check_tile_size(size)


def test_stride_must_move(hills):
    with pytest.raises(WrongShape, match="stride of 0 px is too small: give 1 or more"):
        cut(hills, 32, stride=0)


def test_scene_smaller_than_a_tile_is_refused(hills):
    with pytest.raises(NoTiles, match="hills is 128 x 160 px, smaller than one tile of 256 px"):
        cut(hills, 256)


@given(size=st.sampled_from([32, 64]), stride=st.integers(5, 80), left=st.integers(0, 30), share=st.floats(0, 1))
def test_tiles_with_too_much_nodata_are_dropped_counted_and_never_filled(make_scene, size, stride, left, share):
    scene = make_scene(70, 130)
    holes = np.random.default_rng(left).random((70, 130)) < np.linspace(0, 1.2, 130)
    scene["dem"] = scene.dem.where(~holes)
    everything = cut(scene, size, stride, max_nodata=1.0)
    few = np.isnan(everything.dem).mean((1, 2)) <= share
    if not few.any():
        with pytest.raises(NoTiles, match=f"all {few.size} tiles of hills have more than .* raise max_nodata"):
            cut(scene, size, stride, share)
        return
    tiles = cut(scene, size, stride, share)
    assert tiles.dropped == (~few).sum() and everything.dropped == 0
    np.testing.assert_array_equal(tiles.dem, everything.dem[few])
    assert tiles.ids == tuple(name for name, keep in zip(everything.ids, few) if keep)


@given(
    size=st.sampled_from([32, 64]), more=st.tuples(*[st.integers(0, 50)] * 4), gap=st.integers(0, 40),
    stride=st.integers(3, 70),
)
def test_no_tile_comes_within_the_gap_of_another_region(make_scene, size, more, gap, stride):
    north, south, west, east = (size + extra for extra in more)
    height, width = north + gap + south, west + gap + east
    scene = make_scene(height, width)
    regions = divide(scene, test=east / width, validation=south / height, gap=gap)
    train, *held_out = (cut(region, size, stride) for region in regions)
    for part in (train, *held_out):  # corners count in the undivided scene
        for (row, column), rgb, dem in zip(part.corners, part.rgb, part.dem):
            window = {"y": slice(row, row + size), "x": slice(column, column + size)}
            np.testing.assert_array_equal(rgb, scene.rgb.isel(window))
            np.testing.assert_array_equal(dem, scene.dem.isel(window))
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


def test_ids_name_scene_and_corner_and_take_keeps_all_in_order(hills):
    tiles = cut(hills, 64)
    assert tiles.ids == ("hills_r0000_c0000", "hills_r0000_c0064", "hills_r0064_c0000", "hills_r0064_c0064")
    chosen = tiles.take([3, 0])
    assert chosen.ids == ("hills_r0064_c0064", "hills_r0000_c0000")
    np.testing.assert_array_equal(chosen.dem, tiles.dem[[3, 0]])
    np.testing.assert_array_equal(chosen.rgb, tiles.rgb[[3, 0]])
    assert chosen.corners.tolist() == [[64, 64], [0, 0]]
    assert tiles.gsd == pytest.approx((30, 30), rel=1e-3)


def test_fingerprint_changes_with_any_pixel_and_any_id(hills):
    tiles = cut(hills, 64)
    assert tiles.fingerprint() == cut(hills, 64).fingerprint()
    dem, rgb = hills.copy(deep=True), hills.copy(deep=True)
    dem.dem[3, 3] += 0.01
    rgb.rgb[0, 3, 3] ^= 1
    others = [cut(dem, 64), cut(rgb, 64), cut(hills.assign_attrs(name="other"), 64), tiles.take([1, 0, 2, 3])]
    assert len({tiles.fingerprint(), *(other.fingerprint() for other in others)}) == 5


@given(seed=st.integers(0, 20), size=st.sampled_from([32, 64]))
def test_blocks_go_into_one_part_whole(make_scene, seed, size):
    tiles = cut(make_scene(640, 512), size)
    parts = split_groups(block_of(tiles, 2), seed)
    assert sorted(sum(parts, [])) == list(range(len(tiles)))
    blocks = [{tuple(tiles.corners[number] // (2 * size)) for number in part} for part in parts]
    assert not blocks[0] & blocks[1] and not blocks[0] & blocks[2] and not blocks[1] & blocks[2]
    assert parts == split_groups(block_of(tiles, 2), seed)
    assert 0.5 <= len(parts[0]) / len(tiles) <= 0.8


def test_too_few_blocks_are_said(make_scene):
    with pytest.raises(NoTiles, match="4 tiles in 1 blocks leave a part of the split empty"):
        split_groups(block_of(cut(make_scene(64, 64), 32)), 0)
