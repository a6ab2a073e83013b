"""Slope, aspect, roughness and hillshade: planes worked by hand, nodata, and xdem's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core import terrain

GSD = (30.0, 20.0)
SQUARE = (30.0, 30.0)


def hills(count: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Made-up terrain (N, T, T), meters, tens of pixels wide."""
    coarse = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1000 + 300 * torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[:, 0]


@given(south=st.floats(-1, 1), east=st.floats(-1, 1))
def test_a_plane_has_its_slope_and_aspect_everywhere(south, east):
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    dem = (south * GSD[0] * rows + east * GSD[1] * columns).double()[None]
    slope, aspect = terrain.slope(dem, GSD)[:, 1:-1, 1:-1], terrain.aspect(dem, GSD)[:, 1:-1, 1:-1]
    assert slope.allclose(torch.full_like(slope, 100 * np.hypot(south, east)), atol=1e-6)
    if np.hypot(south, east) > 1e-6:
        downhill = np.degrees(np.arctan2(-east, south)) % 360
        assert float(terrain.angle_between(aspect, torch.full_like(aspect, downhill)).max()) < 1e-3


@pytest.mark.parametrize(("south", "east", "facing"), [(1, 0, 0), (0, -1, 90), (-1, 0, 180), (0, 1, 270)])
def test_terrain_that_falls_to_the_north_faces_north(south, east, facing):
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    assert terrain.aspect(south * rows + east * columns, (1.0, 1.0))[2, 2] == pytest.approx(facing)


def test_level_terrain_has_no_aspect_and_counts_as_water():
    dem = torch.full((1, 8, 8), 250.0)
    assert terrain.aspect(dem, GSD).isnan().all() and (terrain.slope(dem, GSD)[:, 1:-1, 1:-1] == 0).all()
    assert terrain.level(dem)[:, 1:-1, 1:-1].all() and not terrain.level(hills()).any()


@pytest.mark.parametrize(("a", "b", "angle"), [
    (10, 350, 20), (350, 10, 20), (0, 180, 180), (90, 271, 179), (0, 360, 0), (5, 5, 0), (200, 30, 170), (400, 10, 30),
])
def test_angle_between_two_directions(a, b, angle):
    assert terrain.angle_between(torch.tensor(float(a)), torch.tensor(float(b))) == angle


def test_each_row_may_have_a_distance_of_its_own():
    """As in a raster in degrees; the first and the last row have no complete window."""
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    sides = torch.tensor([99.0, 10.0, 20.0, 40.0, 99.0])[:, None]
    south, east = terrain.gradient(4 * rows + 2 * columns, (sides, sides / 2))
    torch.testing.assert_close(south[1:-1, 1:-1], 4 / sides[1:-1].expand(3, 2))
    torch.testing.assert_close(east[1:-1, 1:-1], 4 / sides[1:-1].expand(3, 2))


@pytest.mark.parametrize(("height", "width"), [(2, 5), (5, 2), (1, 1), (2, 2)])
def test_too_few_pixels_for_a_window_have_no_roughness(height, width):
    assert terrain.roughness(torch.zeros(1, height, width)).isnan().all()


def test_roughness_of_a_single_window():
    dem = torch.tensor([[3.0, 1, 2], [4, 5, 9], [7, 6, 8]])
    assert terrain.roughness(dem)[1, 1] == 9 - 1 and terrain.roughness(dem).isnan().sum() == 8


def test_all_land_lies_between_the_lowest_and_the_highest_elevation():
    """The Dead Sea's shore at -430 m and Mount Everest at 8849 m, with little more."""
    assert terrain.LOWEST == -500 and terrain.HIGHEST == 9000


def test_nodata_spreads_to_its_neighbors_and_no_farther():
    dem = hills(1)[0]
    dem[10, 10] = torch.nan
    for values in (terrain.slope(dem, GSD), terrain.aspect(dem, GSD), terrain.roughness(dem)):
        holes = values.isnan()
        assert holes[9:12, 9:12].all()
        holes[9:12, 9:12] = False
        assert not holes[1:-1, 1:-1].any() and holes[0].all() and holes[:, -1].all()


def test_slope_aspect_and_roughness_equal_xdem():
    """xdem's numbers come from tests/peers/xdem_peers.py."""
    with np.load(Path(__file__).with_name("peers") / "xdem.npz") as file:
        theirs = {name: torch.from_numpy(file[name])[1:-1, 1:-1] for name in ("slope", "aspect", "roughness")}
        dem = torch.from_numpy(file["dem"])
    ours = terrain.slope(dem, SQUARE), terrain.aspect(dem, SQUARE), terrain.roughness(dem)
    slope, aspect, roughness = (values[1:-1, 1:-1].double() for values in ours)
    torch.testing.assert_close(slope, 100 * theirs["slope"].deg2rad().tan(), rtol=1e-5, atol=1e-5)
    assert float(terrain.angle_between(aspect, theirs["aspect"]).max()) < 360e-5
    torch.testing.assert_close(roughness, theirs["roughness"], rtol=1e-5, atol=1e-5)


def plane(to_south: float, to_east: float) -> np.ndarray:
    """Elevation (20, 20) that rises by so many meters per pixel."""
    rows, columns = np.mgrid[:20, :20]
    return 1000.0 + to_south * rows + to_east * columns


def test_hillshade_is_bright_towards_the_sun_in_the_north_west():
    facing, flat, away = (terrain.hillshade(dem, SQUARE)[5, 5] for dem in (plane(10, 10), plane(0, 0), plane(-10, -10)))
    assert facing > flat > away
    assert flat == pytest.approx(np.sin(np.radians(45)))
    across = terrain.hillshade(plane(10, -10), SQUARE)[5, 5]  # faces the north-east
    assert away < across < facing


def test_hillshade_of_a_slope_that_the_sun_meets_at_right_angles_is_full():
    rise = 30 * np.tan(np.radians(45)) / np.sqrt(2)
    np.testing.assert_allclose(terrain.hillshade(plane(rise, rise), SQUARE), 1)


def test_hillshade_of_a_plane_is_the_cosine_between_its_normal_and_the_sun():
    """On pixels of 10 m, 4 m up to the south and 3 m to the east: the normal leans 0.4 north and 0.3 west."""
    azimuth, height = np.radians(120), np.radians(30)
    sun = np.array([np.cos(height) * np.sin(azimuth), np.cos(height) * np.cos(azimuth), np.sin(height)])
    for exaggeration in (1, 2):
        normal = np.array([-0.3 * exaggeration, 0.4 * exaggeration, 1])
        expected = max(0, normal @ sun / np.linalg.norm(normal))
        shade = terrain.hillshade(plane(4, 3), (10.0, 10.0), exaggeration, sun=(120.0, 30.0))
        np.testing.assert_allclose(shade, expected, atol=1e-12)
    assert (terrain.hillshade(plane(-40, 3), (10.0, 10.0), sun=(0.0, 30.0)) == 0).all()  # turned away


def test_hillshade_keeps_its_scale_so_that_flat_predictions_look_flat():
    rugged = 200 * np.random.default_rng(0).standard_normal((20, 20))
    assert terrain.hillshade(rugged / 100, SQUARE).std() < 0.2 * terrain.hillshade(rugged, SQUARE).std()


def test_hillshade_follows_the_size_of_a_pixel_and_keeps_nodata():
    dem = plane(8, 3)
    np.testing.assert_allclose(terrain.hillshade(dem, (60.0, 30.0)), terrain.hillshade(plane(4, 3), SQUARE))
    dem[2, 2] = np.nan
    shade = terrain.hillshade(dem, SQUARE)
    assert np.isnan(shade[2, 2]) and np.isnan(shade).sum() == 1
