"""Random views of a scene keep the direction of the light and the scale of relief."""

import numpy as np
import pytest

from sat2dem_core.dataset.augment import relief_unit, views
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
