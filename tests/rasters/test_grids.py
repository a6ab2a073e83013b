"""Sizes on the ground and UTM zones, compared with other ways to compute them."""

import numpy as np
import pytest
import rasterio.warp
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj.database import query_utm_crs_info

from sat2dem_core.rasters.grids import center, pixel_size, square_size, utm_epsg


@pytest.fixture(scope="module")
def zones():
    """The areas of the UTM zones in the EPSG registry, by code."""
    areas = {int(zone.code): zone.area_of_use.bounds for zone in query_utm_crs_info(datum_name="WGS 84")}
    assert len(areas) == 120
    return areas


@given(lon=st.floats(-180, 180), lat=st.floats(-79, 83))
def test_utm_zones_are_those_of_the_epsg_registry(zones, lon, lat):
    assume(abs(lat) > 0.01 and abs((lon + 3) % 6 - 3) > 0.01)  # a point on a border lies in both zones
    registered = [
        code for code, (west, south, east, north) in zones.items() if west <= lon <= east and south <= lat <= north
    ]
    assert registered == [utm_epsg(lon, lat)]


def test_utm_zones_of_many_points_have_the_shape_of_the_points():
    lon, lat = np.meshgrid([-177.0, 8.9, 177.0], [-45.0, 60.0])
    assert utm_epsg(lon, lat).tolist() == [[32701, 32732, 32760], [32601, 32632, 32660]]
    assert utm_epsg(5.0, 60.0) == 32631  # Bergen, which the military grid puts into zone 32
    assert utm_epsg([-180.0, 180.0], [1.0, 1.0]).tolist() == [32601, 32660]


def on_ellipsoid(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Points of the WGS 84 ellipsoid in space, (N, 3) meters from the center of the Earth."""
    flattening = 1 / 298.257223563
    eccentricity = flattening * (2 - flattening)
    lon, lat = np.radians(lon), np.radians(lat)
    normal = 6378137.0 / np.sqrt(1 - eccentricity * np.sin(lat) ** 2)
    horizontal = normal * np.cos(lat)
    return np.stack([horizontal * np.cos(lon), horizontal * np.sin(lon), normal * (1 - eccentricity) * np.sin(lat)], -1)


def straight_sides(crs: str, transform: Affine, width: int, height: int) -> tuple[float, float]:
    """The sides of the pixel at the center as straight lines through space, with GDAL's transformation."""
    x, y = width / 2, height / 2
    ends = [(x, y - 0.5), (x, y + 0.5), (x - 0.5, y), (x + 0.5, y)]
    xs, ys = zip(*(transform * end for end in ends))
    top, bottom, left, right = on_ellipsoid(*map(np.array, rasterio.warp.transform(crs, "EPSG:4326", xs, ys)))
    return float(np.linalg.norm(bottom - top)), float(np.linalg.norm(right - left))


@given(
    lon=st.floats(-179, 179), lat=st.floats(-75, 75), turn=st.floats(0, 360), along=st.floats(1, 300),
    ratio=st.floats(0.5, 2), shear=st.floats(-30, 30), degrees=st.booleans(),
)
def test_pixels_have_their_size_on_the_ground_however_the_grid_is_rotated(lon, lat, turn, along, ratio, shear, degrees):
    if degrees:
        crs, unit, x, y = "EPSG:4326", 1 / 111_320, lon, lat
    else:
        crs, unit = f"EPSG:{utm_epsg(lon, lat)}", 1.0
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", crs, [lon], [lat])
    size = Affine.scale(along * unit, -along * ratio * unit)
    transform = Affine.translation(x, y) * Affine.rotation(turn) * Affine.shear(shear) * size
    width, height = 60, 40
    sides = pixel_size(crs, transform, width, height)
    assert sides == pytest.approx(straight_sides(crs, transform, width, height), rel=1e-6)


def test_a_rotated_grid_of_utm_has_the_scale_of_its_projection():
    """0.9996 at the central meridian, the same in all directions."""
    transform = Affine.translation(500_000, 4_500_000) * Affine.rotation(37) * Affine.scale(30, -20)
    assert pixel_size("EPSG:32613", transform, 2, 2) == pytest.approx((20 / 0.9996, 30 / 0.9996), rel=1e-6)
    lon, lat = center("EPSG:32613", transform, 2, 2)
    assert lon == pytest.approx(-105, abs=1e-3) and 40 < lat < 41
    assert square_size((20.0, 45.0)) == 30
