"""The grid of tiles: one name for one square of the Earth, whatever the request."""

import json
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from pyproj import Transformer

from sat2dem_core.dataset.grid import (
    PIXELS, RESOLUTION, SIDE, Cell, _near_zone, _utm_zones, block_split, cell_at, cells, overlaps, read_region,
)
from sat2dem_core.errors import InvalidRegion, NoTiles

BORDER = (-6.3, 40.6, -5.7, 41.0)  # two zones meet at 6 degrees west


@pytest.fixture(scope="module")
def border():
    return cells(BORDER)


@given(epsg=st.integers(32601, 32760), column=st.integers(-5, 200), row=st.integers(-5, 1300))
def test_a_name_is_read_back(epsg, column, row):
    cell = Cell(epsg, column, row)
    assert Cell.parse(cell.id) == cell


@pytest.mark.parametrize(
    "name", ["", "32630", "32630_r0001_c0001", "rocky-mountain_r0064_c0128", "32630_c0001_r0001.tif"]
)
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(NoTiles, match="no tile of the grid: names look like"):
        Cell.parse(name)


@given(lon=st.floats(-179.9, 179.9), lat=st.floats(-79, 83))
def test_a_point_lies_in_its_cell(lon, lat):
    cell = cell_at(lon, lat, "EPSG:4326")
    x, y = Transformer.from_crs("EPSG:4326", f"EPSG:{cell.epsg}", always_xy=True).transform(lon, lat)
    assert cell.left <= x < cell.left + SIDE and cell.top - SIDE <= y < cell.top
    assert cell.geobox.shape == (PIXELS, PIXELS) and cell.geobox.resolution.x == RESOLUTION


@given(lon=st.floats(-170, 170), lat=st.floats(-70, 75), width=st.floats(0.05, 0.5))
def test_an_area_has_the_same_tiles_in_a_small_and_in_a_large_region(lon, lat, width):
    small, large = (lon, lat, lon + width, lat + 0.1), (lon - 0.1, lat - 0.1, lon + width + 0.1, lat + 0.2)
    assert set(cells(small)) <= set(cells(large))


@given(lon=st.floats(-170, 170), lat=st.floats(-70, 75))
def test_each_tile_is_in_the_zone_of_its_own_center(lon, lat):
    for cell in cells((lon, lat, lon + 0.3, lat + 0.1)):
        x, y = cell.left + SIDE / 2, cell.top - SIDE / 2
        middle = Transformer.from_crs(f"EPSG:{cell.epsg}", "EPSG:4326", always_xy=True).transform(x, y)
        assert cell_at(*middle, "EPSG:4326") == cell


@given(offset=st.floats(-2.5, 2.0), lat=st.floats(-70, 75))
def test_inside_a_zone_tiles_cover_the_region_without_gaps_or_overlaps(offset, lat):
    assume(abs(lat) > 0.3)  # not across the equator, where the northern and the southern grid meet
    lon = -3 + offset
    region = shapely.box(lon, lat, lon + 0.4, lat + 0.2)
    tiles = cells(region)
    union = shapely.unary_union([cell.footprint for cell in tiles])
    assert region.difference(union.buffer(1e-4)).is_empty  # sides are straight in meters, not quite in degrees
    assert sum(cell.footprint.area for cell in tiles) == pytest.approx(union.area, rel=1e-3)


def test_a_cell_worked_by_hand():
    cell, side = Cell(32630, 57, 574), 256 * 30.0
    assert side == SIDE and cell.id == "32630_c0057_r0574"
    assert (cell.left, cell.top) == (57 * side, 575 * side)
    assert tuple(cell.geobox.boundingbox) == (57 * side, 574 * side, 58 * side, 575 * side)
    around = [(56, 575), (57, 575), (58, 575), (56, 574), (58, 574), (56, 573), (57, 573), (58, 573)]
    assert cell.neighbors() == [Cell(32630, *place) for place in around]
    to_degrees = Transformer.from_crs("EPSG:32630", "EPSG:4326", always_xy=True).transform
    corners = [to_degrees((57 + x) * side, (574 + y) * side) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    np.testing.assert_allclose(cell.footprint.exterior.coords, corners)
    assert sorted([Cell(32630, 2, 1), Cell(32629, 9, 9), Cell(32630, 1, 7)])[0].epsg == 32629
    with pytest.raises(FrozenInstanceError):
        cell.row = 1


def test_cells_of_a_region_are_those_that_share_area_with_it_from_west_to_east():
    """Compared with all cells around it, one by one."""
    region = shapely.box(-3.3, 40.0, -3.0, 40.2)
    middle = cell_at(-3.15, 40.1, "EPSG:4326")
    around = [
        Cell(32630, middle.column + dx, middle.row + dy) for dx in range(-6, 7) for dy in range(-6, 7)
    ]
    expected = [cell for cell in around if cell.footprint.intersection(region).area > 0]
    assert 8 < len(expected) < 40 and cells(region) == expected == cells(region, "EPSG:32630")
    one = cells(middle.footprint.buffer(-1e-6))
    assert one == [middle]


@pytest.mark.parametrize(("bounds", "zones"), [
    ((-3.2, 40.0, -3.1, 40.1), [32629, 32630, 32631]), ((-6.5, 40.0, -5.5, 40.1), [32628, 32629, 32630, 32631]),
    ((-180.0, 40.0, -179.9, 40.1), [32601, 32602]), ((179.9, 40.0, 180.0, 40.1), [32659, 32660]),
    ((-180.0, 40.0, 180.0, 40.1), list(range(32601, 32661))), ((-174.1, 40.0, -174.0, 40.1), [32601, 32602, 32603]),
    ((3.0, 0.2, 3.1, 0.3), [32630, 32631, 32632]), ((3.0, -0.3, 3.1, -0.2), [32730, 32731, 32732]),
    ((3.0, 0.05, 3.1, 0.3), [32630, 32631, 32632, 32730, 32731, 32732]),
    ((3.0, -0.3, 3.1, -0.05), [32630, 32631, 32632, 32730, 32731, 32732]),
    ((3.0, -0.3, 3.1, 0.3), [32630, 32631, 32632, 32730, 32731, 32732]),
])
def test_zones_of_a_region_and_its_neighbors_worked_by_hand(bounds, zones):
    assert _utm_zones(bounds) == zones


@pytest.mark.parametrize(("west", "east", "near"), [
    (-10, 10, (-7, 1)), (-4, -2, (-4, -2)), (-9, -2, (-7, -2)), (-4, 7, (-4, 1)), (10, 20, (1, 1)),
    (-20, -10, (-7, -7)),
])
def test_a_zone_is_used_up_to_one_degree_beyond_its_border(west, east, near):
    assert _near_zone((west, 40, east, 41), 32630) == (near[0], 40, near[1], 41)  # zone 30 is from -6 to 0 degrees
    assert _near_zone((west + 6, -41, east + 6, -40), 32731) == (near[0] + 6, -41, near[1] + 6, -40)


def test_neighbors_are_mutual_and_touch():
    cell = Cell(32630, 57, 574)
    neighbors = cell.neighbors()
    assert len(set(neighbors)) == 8 and all(cell in other.neighbors() for other in neighbors)
    assert all(other.geobox.extent.geom.touches(cell.geobox.extent.geom) for other in neighbors)


def test_overlaps_are_what_the_squares_share_across_zones(border):
    pairs = set(overlaps(border))
    assert {cell.epsg for cell in border} == {32629, 32630}
    assert pairs == {
        (a, b) for a, b in combinations(range(len(border)), 2)
        if border[a].epsg != border[b].epsg and border[a].footprint.intersects(border[b].footprint)
    }
    shares = [border[a].footprint.intersection(border[b].footprint).area / border[a].footprint.area for a, b in pairs]
    assert max(shares) > 0.1


@given(seed=st.integers(0, 1000), block=st.integers(1, 3))
def test_a_split_loses_no_tile_and_puts_no_pixel_into_two_parts(border, seed, block):
    try:
        parts = block_split(border, seed, block)
    except NoTiles:  # some seeds leave a part empty, because there are few blocks
        reject()
    assert sorted(sum(parts, [])) == list(range(len(border))) and all(part == sorted(part) for part in parts)
    part_of = {number: part for part, numbers in enumerate(parts) for number in numbers}
    assert all(part_of[a] == part_of[b] for a, b in overlaps(border))
    assert parts == block_split(border, seed, block)


def test_blocks_stay_whole_and_shares_are_kept():
    tiles = [Cell(32630, column, row) for column in range(40) for row in range(40)]
    parts = block_split(tiles, seed=1, block=4)
    blocks = [{(tiles[number].column // 4, tiles[number].row // 4) for number in part} for part in parts]
    assert not blocks[0] & blocks[1] and not blocks[0] & blocks[2] and not blocks[1] & blocks[2]
    assert [len(part) / len(tiles) for part in parts] == pytest.approx([0.70, 0.15, 0.15], abs=0.02)
    assert parts != block_split(tiles, seed=2, block=4)


def test_tiles_at_the_antimeridian_overlap_nothing_on_the_other_side_of_the_earth():
    tiles = cells((179.7, -17.5, 180, -17.2)) + cells((-3.2, -17.5, -2.9, -17.2))
    assert overlaps(tiles) == []
    assert all(east - west < 0.1 for west, _, east, _ in (cell.footprint.bounds for cell in tiles))


def test_too_few_blocks_for_three_parts():
    with pytest.raises(NoTiles, match="4 tiles in 1 blocks leave a part of the split empty"):
        block_split([Cell(32630, column, row) for column in (0, 1) for row in (0, 1)])


@pytest.mark.parametrize("crs", ["EPSG:3035", "EPSG:32630"])
def test_one_crs_for_all(crs):
    tiles = cells(BORDER, crs)
    assert {f"EPSG:{cell.epsg}" for cell in tiles} == {crs} and not overlaps(tiles)
    union = shapely.unary_union([cell.footprint for cell in tiles])
    assert shapely.box(*BORDER).difference(union.buffer(1e-4)).is_empty


# New York's, and New Zealand's, whose area crosses 180 degrees.
@pytest.mark.parametrize("crs", ["EPSG:32618", "EPSG:3851"])
def test_a_crs_made_for_another_part_of_the_earth(crs):
    with pytest.raises(InvalidRegion, match=f"'{crs}' .* is made for longitudes .* the region .* is far from there"):
        cells(BORDER, crs)


def test_a_crs_may_be_used_some_degrees_beyond_its_area():
    assert {cell.epsg for cell in cells((-9.2, 40.1, -9.1, 40.2), "EPSG:32630")} == {32630}  # Portugal in Spain's
    assert cells((-177, -44.2, -176, -43.7), "EPSG:3851")  # the Chatham Islands, beyond the antimeridian


@pytest.mark.parametrize(("crs", "message"), [
    ("EPSG:4326", r"EPSG:4326' \(WGS 84\) is no projection in meters"), ("EPSG:2225", "no projection in meters"),
    ("EPSG:999999", "is unknown"), ("nonsense", "is unknown"),
    ("+proj=laea +lat_0=52 +lon_0=10 +units=m", "with an EPSG code"),
])
def test_a_crs_that_no_grid_can_have(crs, message):
    with pytest.raises(InvalidRegion, match=message):
        cells(BORDER, crs)


@pytest.mark.parametrize(("region", "message"), [
    ((179, -17, -179, -16), "crosses the antimeridian: request each side of it, 179 to 180 and -180 to -179"),
    ((1, 2, 1, 3), "has no area"), ((1, 3, 2, 2), "has no area: give west, south, east, north"),
    ((float("nan"), 2, 3, 4), "has no area"), (shapely.Point(1, 2), "has no area"), (shapely.Polygon(), "has no area"),
    ((179, 2, 181, 3), "longitudes of -180 to 180"), ((0, -85, 1, -84), "latitudes of -80 to 84"),
    ((400_000, 4_400_000, 410_000, 4_410_000), "in degrees"),
])
def test_impossible_regions(region, message):
    with pytest.raises(InvalidRegion, match=message):
        cells(region)


def test_the_grid_ends_at_80_degrees_south_and_84_north():
    assert read_region((-180, -80, 180, 84)).bounds == (-180, -80, 180, 84)
    for bounds in ((-180.5, 0, 1, 1), (0, 0, 180.5, 1), (0, -80.5, 1, 1), (0, 0, 1, 84.5)):
        with pytest.raises(InvalidRegion, match="leaves longitudes"):
            read_region(bounds)


def test_small_regions_have_an_area():
    assert read_region((1, 2, 1.001, 2.001)).area > 0
    with pytest.raises(InvalidRegion, match="has no area"):
        read_region((1, 2, 3, 2))
    with pytest.raises(InvalidRegion, match="has no area"):
        read_region(shapely.LineString([(1, 2), (3, 4)]))


def test_a_crs_ends_10_degrees_beyond_its_area():
    """Zone 30 is from -6 to 0 degrees east."""
    assert cells((10.0, 40.0, 10.1, 40.1), "EPSG:32630") and cells((-15.8, 40.0, -15.7, 40.1), "EPSG:32630")
    for west in (10.5, -16.7):
        with pytest.raises(InvalidRegion, match="far from there"):
            cells((west, 40.0, west + 0.1, 40.1), "EPSG:32630")


def test_a_split_is_that_of_seed_0_unless_told_otherwise():
    tiles = [Cell(32630, column, row) for column in range(40) for row in range(40)]
    assert block_split(tiles) == block_split(tiles, 0, 4, (0.70, 0.15)) != block_split(tiles, 1)


def test_both_sides_of_the_antimeridian_can_be_requested():
    west, east = cells((179.9, -17, 180, -16.9)), cells((-180, -17, -179.9, -16.9))
    assert {cell.epsg for cell in west} == {32760} and {cell.epsg for cell in east} == {32701}
    assert cells((179.99, 10, 180, 10.01)), "the last tile before it"


def test_a_region_between_the_tiles_of_two_zones_is_refused():
    with pytest.raises(NoTiles, match="between the tiles of two UTM zones: request a larger one, or give one CRS"):
        cells((-6.02, 44.1, -6.0, 44.11))
    assert cells((-6.02, 44.1, -6.0, 44.11), "EPSG:3035")


@given(lon=st.floats(-170, 170))
def test_across_the_equator_each_tile_is_in_the_hemisphere_of_its_center(lon):
    tiles = cells((lon, -0.2, lon + 0.3, 0.2))
    assert {cell.epsg // 100 for cell in tiles} == {326, 327}
    for cell in tiles:
        assert (cell.footprint.centroid.y > 0) == (cell.epsg < 32700)


def test_regions_from_geojson(tmp_path):
    squares = [shapely.box(-3.5, 40, -3.4, 40.1), shapely.box(-3.2, 40, -3.1, 40.1)]
    geometries = [json.loads(shapely.to_geojson(square)) for square in squares]
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    path = tmp_path / "two.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    assert set(cells(path)) == set(cells(squares[0])) | set(cells(squares[1]))
    path.write_text(shapely.to_geojson(squares[0]), encoding="utf-8")
    assert cells(path) == cells((-3.5, 40, -3.4, 40.1))


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"type": "FeatureCollection"}', '{"type": "Nonsense"}'])
def test_a_file_that_is_no_geojson(tmp_path, content):
    path = tmp_path / "region.geojson"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRegion, match=r"region.geojson cannot be read as GeoJSON"):
        read_region(path)


def test_a_concave_region_leaves_out_what_it_does_not_touch():
    hole = shapely.box(-3.45, 40.15, -3.15, 40.45)
    ring = shapely.box(-3.6, 40, -3, 40.6).difference(hole)
    inside = [cell for cell in cells((-3.6, 40, -3, 40.6)) if hole.contains(cell.footprint)]
    assert inside and not set(inside) & set(cells(ring))
    assert np.all([ring.intersects(cell.footprint) for cell in cells(ring)])
