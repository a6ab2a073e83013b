"""The size of a raster's pixels on the ground, and UTM zones."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike
from pyproj import CRS, Geod, Transformer

if TYPE_CHECKING:
    import xarray as xr


def pixel_size(crs: Any, transform: Affine, width: int, height: int) -> tuple[float, float]:
    """Size on the ground of the pixel at a raster's center: (down the rows, along the columns) in meters.

    The sides of the pixel are measured on the WGS 84 ellipsoid, since a projection stretches distances.

    Args:
        crs: a coordinate reference system in any form that pyproj reads.
        transform: from column and row to coordinates; it may be rotated.
        width, height: of the raster, px.
    """
    x, y = width / 2, height / 2
    ends = [(x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5)]
    xs, ys = zip(*(transform * end for end in ends))
    lon, lat = to_degrees(crs).transform(xs, ys)
    along, down = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])[2]
    return down, along


def ground_sampling_distance(scene: "xr.Dataset | xr.DataArray") -> tuple[float, float]:
    """Ground sampling distance at the center of a scene: (down the rows, along the columns) in meters.

    >>> from sat2dem_core import open_scene
    >>> [round(side) for side in ground_sampling_distance(open_scene())]
    [167, 127]
    """
    return pixel_size(scene.rio.crs, scene.rio.transform(), scene.rio.width, scene.rio.height)


def center(crs: Any, transform: Affine, width: int, height: int) -> tuple[float, float]:
    """Longitude and latitude of a raster's center, degrees."""
    lon, lat = to_degrees(crs).transform(*(transform * (width / 2, height / 2)))
    return lon, lat


def to_degrees(crs: Any) -> Transformer:
    """The transformer from a coordinate reference system to longitude and latitude on WGS 84, in that order."""
    return Transformer.from_crs(CRS.from_user_input(crs), "EPSG:4326", always_xy=True)


def utm_epsg(lon: ArrayLike, lat: ArrayLike) -> np.ndarray:
    """EPSG codes of the UTM zones (WGS 84) of points: longitude and latitude in degrees to integers of the same shape.

    The zones are those of the EPSG registry, six degrees wide everywhere, without the exceptions of the military grid
    around Norway and Svalbard. pyproj finds the same zones, but one point at a time, and a grid has thousands.

    >>> utm_epsg([-3.7, 174.8], [40.4, -41.3])
    array([32630, 32760])
    """
    zone = np.clip((np.asarray(lon) + 180) // 6, 0, 59).astype(int) + 1
    return np.where(np.asarray(lat) >= 0, 32600, 32700) + zone


def square_size(size: tuple[float, float]) -> float:
    """Side of the square with the area of a pixel, meters."""
    return math.sqrt(size[0] * size[1])
