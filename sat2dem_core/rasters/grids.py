"""Where a raster's pixels lie: grids, the size of pixels on the ground, true north, and UTM zones."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike
from pyproj import CRS, Geod, Transformer

if TYPE_CHECKING:
    import xarray as xr

SAME = 0.01  # px: grids whose pixels lie this close to one another are the same


@dataclass(frozen=True)
class Grid:
    """The pixels of a raster on the Earth.

    Attributes:
        crs: horizontal coordinate reference system as WKT; None without one.
        transform: from column and row to coordinates, the six numbers of an :class:`affine.Affine`.
        height, width: px.
    """

    crs: str | None
    transform: tuple[float, ...]
    height: int
    width: int

    @property
    def affine(self) -> Affine:
        return Affine(*self.transform)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def upright(self) -> bool:
        """Whether rows run along one axis of the coordinates, with north at the top and east at the right."""
        a, b, _, d, e, _ = self.transform
        return b == d == 0 and e < 0 < a

    def window(self, row: int, column: int, height: int, width: int) -> "Grid":
        """A part of the grid; it may reach beyond it."""
        return Grid(self.crs, _numbers(self.affine * Affine.translation(column, row)), height, width)

    def scaled(self, factor: float, height: int, width: int) -> "Grid":
        """A grid from the same corner with pixels that are ``factor`` times larger."""
        return Grid(self.crs, _numbers(self.affine * Affine.scale(factor)), height, width)

    def turned(self) -> "Grid":
        """The same pixels with north at the top and east at the right, unless the grid is rotated."""
        a, b, c, d, e, f = self.transform
        if b or d:
            return self
        if a < 0:
            a, c = -a, c + a * self.width
        if e > 0:
            e, f = -e, f + e * self.height
        return Grid(self.crs, (a, b, c, d, e, f), self.height, self.width)

    def offset(self, other: "Grid") -> tuple[int, int] | None:
        """Row and column of this grid at which another begins; None where their pixels do not coincide.

        Pixels coincide if those of the other grid, at all of its corners, lie within ``SAME`` of pixels of this one.
        """
        if not same_crs(self.crs, other.crs):
            return None
        to_pixels = ~self.affine * Affine.translation(-self.turns(other), 0) * other.affine
        column, row = round(to_pixels.c), round(to_pixels.f)
        for x, y in ((0, 0), (other.width, 0), (0, other.height), (other.width, other.height)):
            at_x, at_y = to_pixels * (x, y)
            if max(abs(at_x - x - column), abs(at_y - y - row)) > SAME:
                return None
        return row, column

    def turns(self, other: "Grid") -> float:
        """Degrees by which another grid's longitudes count from elsewhere, such as 360; 0 where either has none."""
        if not (is_geographic(self.crs) and is_geographic(other.crs)):
            return 0.0
        own, others = (grid.affine * (grid.width / 2, grid.height / 2) for grid in (self, other))
        return 360.0 * round((others[0] - own[0]) / 360)

    def points(self, count: int = 21) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of ``count`` x ``count`` points spread over the grid, its corners among them."""
        columns, rows = np.meshgrid(np.linspace(0, self.width, count), np.linspace(0, self.height, count))
        return apply(self.affine, columns.ravel(), rows.ravel())


def apply(affine: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Coordinates of columns and rows, numbers or arrays; with the inverse of a transform, the other way round."""
    a, b, c, d, e, f = tuple(affine)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _numbers(affine: Affine) -> tuple[float, ...]:
    return tuple(affine)[:6]


def horizontal(crs: Any) -> CRS:
    """A coordinate reference system without its vertical part."""
    crs = CRS.from_user_input(crs)
    if crs.is_bound:
        crs = crs.source_crs
    return (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()


@lru_cache(maxsize=64)
def is_geographic(crs: str | None) -> bool:
    """Whether coordinates are degrees of longitude and latitude."""
    return crs is not None and horizontal(crs).is_geographic


@lru_cache(maxsize=64)
def same_crs(a: str | None, b: str | None) -> bool:
    """Whether two coordinate reference systems give a point the same horizontal coordinates."""
    if a == b or a is None or b is None:
        return a == b
    return horizontal(a).equals(horizontal(b), ignore_axis_order=True)


@lru_cache(maxsize=64)
def transformer(source: str | None, target: str | None) -> Transformer:
    """From one coordinate reference system to another, x before y, also for degrees."""
    return Transformer.from_crs(horizontal(source), horizontal(target), always_xy=True)


def pixel_size(crs: Any, transform: Affine, width: int, height: int) -> tuple[float, float]:
    """Size on the ground of the pixel at a raster's center: (down the rows, along the columns) in meters.

    The sides of the pixel are measured on the WGS 84 ellipsoid, since a projection stretches distances.

    Args:
        crs: a coordinate reference system in any form that pyproj reads.
        transform: from column and row to coordinates; it may be rotated.
        width, height: of the raster, px.
    """
    down, along = _sides(crs, transform, np.array([width / 2]), np.array([height / 2]))
    return float(down[0]), float(along[0])


def pixel_sizes_by_row(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Size on the ground of the pixels in the middle of each row: (down, along), (height,) each, meters.

    In degrees, pixels become narrower towards the poles.
    """
    knots = np.linspace(0.5, grid.height - 0.5, min(grid.height, 129))
    sides = _sides(grid.crs, grid.affine, np.full(len(knots), grid.width / 2), knots)
    rows = np.arange(grid.height) + 0.5
    down, along = (np.interp(rows, knots, side) for side in sides)
    return down, along


def _sides(crs: Any, transform: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    to_lonlat, geod = to_degrees(crs), Geod(ellps="WGS84")

    def distance(dx: float, dy: float) -> np.ndarray:
        ends = [to_lonlat.transform(*apply(transform, x + sign * dx, y + sign * dy)) for sign in (-0.5, 0.5)]
        return np.asarray(geod.inv(*ends[0], *ends[1])[2])

    return distance(0, 1), distance(1, 0)


def ground_sampling_distance(scene: "xr.Dataset | xr.DataArray") -> tuple[float, float]:
    """Ground sampling distance at the center of a scene: (down the rows, along the columns) in meters.

    >>> from sat2dem_core import open_scene
    >>> [round(side) for side in ground_sampling_distance(open_scene())]
    [167, 127]
    """
    return pixel_size(scene.rio.crs, scene.rio.transform(), scene.rio.width, scene.rio.height)


def center(crs: Any, transform: Affine, width: int, height: int) -> tuple[float, float]:
    """Longitude (from -180 to 180) and latitude of a raster's center, degrees."""
    lon, lat = to_degrees(crs).transform(*(transform * (width / 2, height / 2)))
    return (lon + 180) % 360 - 180, lat


def convergence(grid: Grid) -> float:
    """Direction in which a grid's columns point upwards, at its center: degrees clockwise from true north.

    It is near 0 in UTM, and the whole circle around a pole in a polar projection.
    """
    x, y = grid.width / 2, grid.height / 2
    to_lonlat = to_degrees(grid.crs)
    (lon, lat), (lon_up, lat_up) = (to_lonlat.transform(*(grid.affine * (x, row))) for row in (y + 0.5, y - 0.5))
    return float(Geod(ellps="WGS84").inv(lon, lat, lon_up, lat_up)[0])


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
