"""Random views of a scene keep the direction of the light and the scale of relief."""

import numpy as np
import pytest

from sat2dem_core.dataset.augment import _coarser, _draw_window, _Pyramid, _relit, _Window, relief_unit, views
from sat2dem_core.errors import NoTiles


def lit(tiles) -> np.ndarray:
    """How each tile's brightness depends on its slopes to the south and to the east: (N, 2)."""
    coefficients = []
    for rgb, dem in zip(tiles.rgb, tiles.dem):
        south, east = np.gradient(dem)
        terms = np.stack([np.ones(dem.size), -south.ravel(), -east.ravel()], 1)
        coefficients.append(np.linalg.lstsq(terms, rgb.mean(0).ravel(), rcond=None)[0][1:])
    return np.array(coefficients)


@pytest.fixture(scope="module")
def sunny(make_scene):
    """Gray hills that are lit from the south-east."""
    scene = make_scene(200, 200).copy(deep=True)
    south, east = np.gradient(scene.dem.values, 30.0)
    shade = 128 - 150 * (0.8 * south + 0.6 * east)
    scene["rgb"] = (("band", "y", "x"), np.stack([shade] * 3).clip(0, 255).astype(np.uint8))
    return scene


def test_the_sun_stays_in_the_south_east(sunny):
    south, east = lit(views(sunny, 40, 32, 30, 60, seed=0)).T
    assert (south > 0).all() and (east > 0).all()


def test_a_plain_view_is_a_piece_of_the_scene(sunny):
    tiles = views(sunny, 5, 32, 30, 30, seed=1, plain=True)
    assert tiles.rgb.shape == (5, 3, 32, 32) and tiles.dem.min() == 0 and len(set(tiles.ids)) == 5
    assert 30 < tiles.dem.max() < np.ptp(sunny.dem.values)


def test_the_same_seed_gives_the_same_views_and_another_seed_others(sunny):
    a, b, c = (views(sunny, 6, 32, 30, 90, seed=seed) for seed in (3, 3, 4))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


def test_the_unit_of_relief_grows_with_the_pixel(sunny):
    assert relief_unit(30.0) == 1.0 and relief_unit(120.0, 0.5) == 2.0
    ramp = sunny.copy()
    ramp["dem"] = (("y", "x"), np.add.outer(np.arange(200.0), np.zeros(200)).astype(np.float32))
    fine, coarse = (views(ramp, 1, 32, gsd, gsd, plain=True).dem.max() for gsd in (30, 60))
    assert coarse / fine == pytest.approx(2 / relief_unit(60.0), rel=1e-3)


def test_a_scene_full_of_holes_is_refused(sunny):
    holes = sunny.copy()
    holes["dem"] = holes.dem.where((holes.dem.x // 300) % 2 < 1)
    with pytest.raises(NoTiles, match="nodata"):
        views(holes, 1, 64, 30, 30)


class Draws:
    """Random numbers that are known: so many standard deviations above the mean, or that share of a range."""

    def __init__(self, deviations: float = 0.0, share: float = 0.5):
        self.deviations, self.share = deviations, share

    def normal(self, mean, deviation, shape=None):
        value = mean + self.deviations * deviation
        return value if shape is None else np.full(shape, value)

    def uniform(self, low, high):
        return low + self.share * (high - low)

    def random(self):
        return self.share


@pytest.fixture(scope="module")
def plane(make_scene):
    """A plane on pixels of 30 m down and 20 m along: 0.2 m up each meter to the south, 0.1 m up each to the east.

    Red grows to the south, green to the east, by 1 every 20 m.
    """
    scene = make_scene(100, 130).copy(deep=True)
    scene = scene.assign_coords(x=scene.x.values[0] + 20.0 * np.arange(130))
    down, along = _Pyramid(scene).gsd
    south, east = np.meshgrid(down * (np.arange(100) + 0.5), along * (np.arange(130) + 0.5), indexing="ij")
    scene["dem"] = (("y", "x"), (0.2 * south + 0.1 * east).astype(np.float32))
    scene["rgb"] = (("band", "y", "x"), np.stack([south / 20, east / 20, 0 * south]).astype(np.uint8))
    return scene


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("gsd", "turn"), [(25.0, 0.0), (45.0, 0.3), (75.0, -0.2), (75.0, 0.0)])
def test_a_window_is_sampled_at_its_place_rotation_and_distance(plane, gsd, turn, mirrored):
    pyramid = _Pyramid(plane)
    assert pyramid.extent == pytest.approx((3000, 2600), rel=2e-3) and pyramid.gsd == pytest.approx((30, 20), rel=2e-3)
    image, dem = pyramid.sample(_Window(1400.0, 1200.0, gsd, turn, mirrored), 12)
    assert image.shape == (3, 12, 12) and dem.shape == (12, 12)
    assert max(pyramid.levels) == (2 if gsd == 75 else 1)  # whole pixels of 30 m, never coarser than the window's
    for row, column in ((0, 0), (0, 11), (4, 9)):
        steps = (row - 5.5) * gsd, (column - 5.5) * gsd
        a, b = steps[::-1] if mirrored else steps
        south, east = 1400 + a * np.cos(turn) - b * np.sin(turn), 1200 + a * np.sin(turn) + b * np.cos(turn)
        assert dem[row, column] == pytest.approx(0.2 * south + 0.1 * east, abs=0.02)
        assert image[:2, row, column] == pytest.approx([south / 20 - 0.5, east / 20 - 0.5], abs=0.6)  # whole numbers


def test_coarser_views_average_the_pixels_that_they_skip(sunny):
    """A checkerboard, seen at twice and at three times its distance, is gray and not black or white."""
    board = sunny.copy(deep=True)
    board["rgb"] = (("band", "y", "x"), np.stack([np.indices((200, 200)).sum(0) % 2 * 200] * 3).astype(np.uint8))
    pyramid = _Pyramid(board)
    for gsd, darkest, brightest in ((30.0, 0, 200), (59.0, 0, 200), (60.0, 100, 100), (90.0, 800 / 9, 1000 / 9)):
        image, _ = pyramid.sample(_Window(3000.0, 3000.0, pyramid.gsd[0] * gsd / 30, 0.0, False), 16)
        assert (image.min() >= darkest - 0.1) and (image.max() <= brightest + 0.1)
        assert np.ptp(image) > 50 or gsd >= 60


def test_averages_over_squares_drop_what_is_left_at_the_edges():
    bands = np.arange(2 * 4 * 5.0).reshape(2, 4, 5)  # each row 0 1 2 3 4, the next 5 more, the second band 20 more
    assert _coarser(bands, 2).tolist() == [[[3, 5], [13, 15]], [[23, 25], [33, 35]]]
    assert _coarser(bands, 3).tolist() == [[[6]], [[26]]]


REACH = np.cos(np.radians(25)) + np.sin(np.radians(25))  # of a square rotated by the largest angle


def test_windows_lie_within_the_scene_at_random_distances():
    ranges = (6000.0, 4500.0), 32, (30.0, 120.0)
    middle = _draw_window(*ranges, False, Draws(share=0.5))
    assert (middle.south, middle.east, middle.turn) == (3000, 2250, 0) and not middle.mirrored
    assert middle.gsd == pytest.approx(60)  # as many between 30 and 60 m as between 60 and 120 m
    largest = 0.98 * 4500 / (32 * REACH)  # at which the rotated tile fits into the shorter side
    for share, turn, gsd in ((0, -25, 30.0), (1, 25, largest)):
        window, half = _draw_window(*ranges, False, Draws(share=share)), 32 * gsd * REACH / 2
        assert np.degrees(window.turn) == pytest.approx(turn) and window.gsd == pytest.approx(gsd)
        ends = (half, half) if share == 0 else (6000 - half, 4500 - half)
        assert (window.south, window.east) == pytest.approx(ends) and window.mirrored == (share == 0)
    assert _draw_window(*ranges, True, Draws(share=0)) == _Window(*map(pytest.approx, (480, 480, 30)), 0, False)
    assert _draw_window((9e4, 9e4), 32, (30.0, 120.0), True, Draws(share=1)).gsd == pytest.approx(120)


def test_a_tile_that_does_not_fit_lies_in_the_middle_at_the_finest_distance():
    window = _draw_window((900.0, 2000.0), 32, (30.0, 120.0), True, Draws(share=0.25))
    assert (window.south, window.east) == pytest.approx((450, 480 + 0.25 * (2000 - 960)))
    assert window.gsd == pytest.approx(30)


def test_tiles_of_a_view_are_named_after_their_place_and_hold_what_lies_there(plane):
    tiles = views(plane, 3, 16, 30, 60, seed=2, plain=True)
    assert tiles.gsd == (30, 30) and tiles.corners.tolist() == [[0, 0]] * 3 and tiles.dem.dtype == np.float32
    for number, (name, rgb, dem) in enumerate(zip(tiles.ids, tiles.rgb, tiles.dem)):
        scene, south, east, gsd, last = name.split("_")
        assert (scene, last) == ("hills", str(number)) and 30 <= int(gsd[:-1]) <= 60
        south, east = int(south[:-1]), int(east[:-1])
        assert rgb[:2, 7:9, 7:9].mean((1, 2)) == pytest.approx([south / 20 - 0.5, east / 20 - 0.5], abs=1)
        unit = (int(gsd[:-1]) / 30) ** 0.45
        assert dem.max() == pytest.approx(15 * int(gsd[:-1]) * (0.2 + 0.1) / unit, rel=0.03)
    assert len({name.split("_")[3] for name in tiles.ids}) > 1
    nameless = plane.copy()
    nameless.attrs = {}
    assert views(nameless, 1, 16, 30, 30).ids[0].startswith("scene_")


def test_views_are_random_and_of_seed_0_unless_told_otherwise(sunny):
    ones = [views(sunny, 3, 32, 30, 60, **given).fingerprint() for given in ({}, {"seed": 0, "plain": False})]
    assert ones[0] == ones[1] != views(sunny, 3, 32, 30, 60, plain=True).fingerprint()


def test_a_few_holes_are_avoided(plane):
    holes = plane.copy(deep=True)
    holes["dem"] = holes.dem.where((holes.dem.x - holes.dem.x[0] > 400) | (holes.dem.y - holes.dem.y[0] < -800))
    tiles = views(holes, 20, 16, 30, 30)
    assert len(tiles) == 20 and not np.isnan(tiles.dem).any()


def test_light_of_a_view_changes_contrast_exposure_color_haze_and_noise():
    pixels = np.full((3, 2, 2), 102.0)  # 0.4 of 255
    np.testing.assert_allclose(_relit(pixels, Draws()), 255 * (0.4 + 0.02), rtol=1e-6)  # a little haze on average
    for deviations in (1, -1):
        spread = np.exp(0.25 * deviations)
        share = 0.4**spread * spread * np.exp(0.12 * deviations) + 0.02 + 0.05 * deviations + 0.02 * deviations
        expected = 255 * share + 1.5 * deviations  # noise of 0 to 3 of 255
        np.testing.assert_allclose(_relit(pixels, Draws(deviations)), expected, rtol=1e-6)
    np.testing.assert_allclose(_relit(pixels + 300, Draws()), 255 * 1.02, rtol=1e-6)
    np.testing.assert_allclose(_relit(pixels - 300, Draws()), 255 * 0.02, rtol=1e-6)


def test_colors_and_pixels_get_light_of_their_own():
    relit = _relit(np.full((3, 8, 8), 102.0), np.random.default_rng(0))
    assert relit.dtype == np.float32 and np.ptp(relit.mean((1, 2))) > 1 and (relit.std((1, 2)) > 0.1).all()


def test_a_plain_view_has_the_colors_of_the_scene(sunny):
    gray = sunny.copy(deep=True)
    for value in (0, 90, 255):
        gray["rgb"] = (("band", "y", "x"), np.full((3, 200, 200), value, np.uint8))
        assert (views(gray, 3, 32, 30, 60, plain=True).rgb == value).all()
        assert not (views(gray, 3, 32, 30, 60).rgb == value).all()
