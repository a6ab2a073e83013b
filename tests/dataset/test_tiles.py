"""Tiles are exact pieces of their scene, with nothing filled and nothing lost."""

import hashlib
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.dataset.tiles import Tiles, check_tile_size, cut
from sat2dem_core.errors import NoTiles, WrongShape


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


def test_sizes_to_choose_from_are_powers_of_two_from_the_smallest_to_512():
    with pytest.raises(WrongShape, match="a tile of 48 px fits no network: choose 32, 64, 128, 256, 512$"):
        check_tile_size(48)
    with pytest.raises(WrongShape, match="a tile of 64 px fits no network: choose 128, 256, 512$"):
        check_tile_size(64, smallest=128)
    check_tile_size(128, smallest=128)


def test_tiles_have_64_px_no_overlap_and_no_nodata_unless_told_otherwise(make_scene):
    scene = make_scene(64, 130)
    scene["dem"] = scene.dem.where((scene.dem.y < scene.dem.y[0]) | (scene.dem.x > scene.dem.x[0]))  # one pixel
    tiles = cut(scene)
    assert tiles.ids == ("hills_r0000_c0064",) and tiles.dropped == 1
    assert Tiles(tiles.rgb, tiles.dem, tiles.ids, tiles.corners, tiles.gsd).dropped == 0
    with pytest.raises(FrozenInstanceError):
        tiles.dropped = 5


def test_tiles_may_be_one_pixel_apart(make_scene):
    assert cut(make_scene(33, 34), 32, stride=1).corners.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_corners_count_from_where_a_scene_was_cut_out(hills):
    part = hills.assign_attrs(origin=(100, 7))
    tiles = cut(part, 64)
    assert tiles.corners.tolist() == [[100, 7], [100, 71], [164, 7], [164, 71]] and tiles.ids[1] == "hills_r0100_c0071"


@pytest.mark.parametrize("shape", [(31, 64), (64, 31)])
def test_both_sides_of_a_scene_must_hold_a_tile(shape, make_scene):
    with pytest.raises(NoTiles, match="smaller than one tile of 32 px"):
        cut(make_scene(*shape), 32)
    assert len(cut(make_scene(*np.maximum(shape, 32)), 32)) == 2


def test_fingerprint_is_the_sha_256_of_ids_and_all_pixels():
    """More tiles than are read at once."""
    rng = np.random.default_rng(0)
    rgb, dem = rng.integers(0, 255, (600, 3, 1, 1), np.uint8), rng.random((600, 1, 1), np.float32)
    tiles = Tiles(rgb, dem, tuple(map(str, range(600))), np.zeros((600, 2), int), (30.0, 30.0))
    ids = ",".join(map(str, range(600))).encode()
    assert tiles.fingerprint() == hashlib.sha256(ids + rgb.tobytes() + dem.tobytes()).hexdigest()


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
