"""The grid of tiles: squares of 256 px of 30 m in the UTM zone of their center, with fixed names all over the Earth.

A tile's name is CRS, column and row, counted from the CRS's origin in steps of 7680 m: ``32630_c0057_r0574``. It does
not depend on the region of a request, so that stores of different regions fit together.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from sat2dem_core.dataset.splits import BLOCK, split_groups
from sat2dem_core.errors import InvalidRegion, NoTiles
from sat2dem_core.rasters.grids import to_degrees, utm_epsg

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

PIXELS, RESOLUTION = 256, 30.0  # px, meters: as in the paper
SIDE = PIXELS * RESOLUTION  # meters
MAX_DISTANCE = 10  # degrees outside the area of use of a CRS; projections tend to infinity far outside

Bounds: TypeAlias = tuple[float, float, float, float]  # west, south, east, north
Region: TypeAlias = Bounds | shapely.Geometry | str | os.PathLike


@dataclass(frozen=True, order=True)
class Cell:
    """One square of the grid: EPSG code, column (counted to the east), row (counted to the north)."""

    epsg: int
    column: int
    row: int

    @property
    def id(self) -> str:
        return f"{self.epsg}_c{self.column:04d}_r{self.row:04d}"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """The cell of a name.

        Raises:
            NoTiles: it is no name of a cell.

        >>> Cell.parse("32630_c0057_r0574").neighbors()[1].id
        '32630_c0057_r0575'
        """
        match = re.fullmatch(r"(\d+)_c(-?\d+)_r(-?\d+)", name)
        if match is None:
            raise NoTiles(f"{name!r} is no tile of the grid: names look like 32630_c0057_r0574")
        return cls(*map(int, match.groups()))

    @property
    def left(self) -> float:
        return self.column * SIDE

    @property
    def top(self) -> float:
        return (self.row + 1) * SIDE

    @property
    def geobox(self) -> "GeoBox":
        """The pixels: shape, transform and CRS."""
        from odc.geo.geobox import GeoBox  # its import takes a quarter of a second; reading a store can do without

        box = (self.left, self.top - SIDE, self.left + SIDE, self.top)
        return GeoBox.from_bbox(box, f"EPSG:{self.epsg}", shape=(PIXELS, PIXELS))

    @cached_property
    def footprint(self) -> shapely.Polygon:
        """The square in longitude and latitude."""
        return footprints(self.epsg, np.array([self.column]), np.array([self.row]))[0]

    def neighbors(self) -> list["Cell"]:
        """The eight cells around it in its own CRS, row by row from the north-west."""
        steps = [(dx, dy) for dy in (1, 0, -1) for dx in (-1, 0, 1) if dx or dy]
        return [Cell(self.epsg, self.column + dx, self.row + dy) for dx, dy in steps]


def footprints(epsg: int, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squares of the grid as polygons in longitude and latitude."""
    x = (columns[:, None] + np.array([0.5, 0, 1, 1, 0])) * SIDE  # the center, then the corners
    y = (rows[:, None] + np.array([0.5, 0, 0, 1, 1])) * SIDE
    lon, lat = _to_degrees(epsg).transform(x, y)
    lon -= 360 * np.round((lon - lon[:, :1]) / 360)  # on the center's side of the antimeridian, even if at 180.1
    return np.asarray(shapely.polygons(np.stack([lon, lat], -1)[:, 1:]))


@lru_cache(maxsize=200)
def _to_degrees(epsg: int) -> Transformer:
    """To longitude and latitude; cached, because pyproj needs 50 ms to find the transformation of a national CRS."""
    return to_degrees(epsg)


def read_region(region: Region) -> shapely.Geometry:
    """The geometry of a region in longitude and latitude.

    Args:
        region: a box (west, south, east, north) in degrees, a geometry, or the path of a GeoJSON file.

    Raises:
        InvalidRegion: it is empty, crosses the antimeridian, is not in degrees, or the file is no GeoJSON.
    """
    if isinstance(region, str | os.PathLike):
        region = _read_geojson(Path(region))
    elif not isinstance(region, shapely.Geometry):
        region = _read_box(region)
    if not region.area > 0:
        raise InvalidRegion(f"the region {region.bounds} has no area: give west, south, east, north in degrees")
    west, south, east, north = region.bounds
    if west < -180 or east > 180 or south < -80 or north > 84:
        raise InvalidRegion(
            f"the region {region.bounds} leaves longitudes of -180 to 180 or latitudes of -80 to 84 degrees: give "
            "west, south, east, north in degrees"
        )
    return region


def _read_geojson(path: Path) -> shapely.Geometry:
    """The union of a file's features."""
    try:
        features = json.loads(path.read_text(encoding="utf-8"))
        parts = [part.get("geometry", part) for part in features.get("features", [features])]
        return shapely.unary_union([shapely.from_geojson(json.dumps(part)) for part in parts])
    except (OSError, ValueError, AttributeError, TypeError, shapely.errors.ShapelyError) as error:
        raise InvalidRegion(
            f"{path} cannot be read as GeoJSON ({error}): give a polygon in longitude and latitude"
        ) from error


def _read_box(bounds: Bounds) -> shapely.Geometry:
    west, south, east, north = bounds
    if west > east:
        raise InvalidRegion(
            f"the region from {west} to {east} degrees east crosses the antimeridian: request each side of it, "
            f"{west} to 180 and -180 to {east}"
        )
    if not (west < east and south < north):  # neither holds for NaN
        raise InvalidRegion(f"the region {tuple(bounds)} has no area: give west, south, east, north in degrees")
    return shapely.box(west, south, east, north)


def cells(region: Region, crs: str | None = None) -> list[Cell]:
    """The cells that meet a region: zone by zone, columns from west to east, each from south to north.

    Args:
        region: see :func:`read_region`.
        crs: one projected CRS in meters for all cells (``"EPSG:3035"``); by default each cell has the UTM zone of its
            own center. Where two zones meet, the squares of the two sides are rotated against each other: some overlap
            (:func:`overlaps`), and slivers between them belong to no cell.

    Raises:
        InvalidRegion: see :func:`read_region`; or the CRS is in degrees, has no EPSG code or is made for another area.
        NoTiles: the region lies in a sliver between two zones.
    """
    geometry = read_region(region)
    if crs:
        selected = _meeting(geometry, _projected(crs, geometry), geometry.bounds)
    else:
        zones = _utm_zones(geometry.bounds)
        selected = [cell for epsg in zones for cell in _meeting_in_zone(geometry, epsg)]
    if not selected:
        raise NoTiles(
            f"the region {geometry.bounds} lies between the tiles of two UTM zones: request a larger one, or give one "
            "CRS"
        )
    return selected


def _meeting(geometry: shapely.Geometry, epsg: int, bounds: Bounds) -> list[Cell]:
    """The cells of one CRS that meet a geometry within bounds in degrees."""
    to_meters = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True)
    west, south, east, north = to_meters.transform_bounds(*bounds, densify_pts=99)
    columns = np.arange(math.floor(west / SIDE), math.floor(east / SIDE) + 1)
    rows = np.arange(math.floor(south / SIDE), math.floor(north / SIDE) + 1)
    columns, rows = (grid.ravel() for grid in np.meshgrid(columns, rows, indexing="ij"))
    shapes = footprints(epsg, columns, rows)
    meets = shapely.intersects(shapes, geometry) & ~shapely.touches(shapes, geometry)
    return [Cell(epsg, int(column), int(row)) for column, row in zip(columns[meets], rows[meets])]


def _meeting_in_zone(geometry: shapely.Geometry, epsg: int) -> list[Cell]:
    """The cells of a UTM zone that meet a geometry and whose own centers lie in the zone."""
    candidates = _meeting(geometry, epsg, _near_zone(geometry.bounds, epsg))
    columns, rows = np.array([(cell.column, cell.row) for cell in candidates]).reshape(-1, 2).T
    zones = utm_epsg(*_to_degrees(epsg).transform((columns + 0.5) * SIDE, (rows + 0.5) * SIDE))
    return [cell for cell, zone in zip(candidates, zones) if zone == epsg]


def cell_at(x: float, y: float, crs: str) -> Cell:
    """The cell of the point's UTM zone that holds a point of any CRS.

    Near a border of zones :func:`cells` may have another cell there, or none.
    """
    lon, lat = to_degrees(crs).transform(x, y)
    epsg = int(utm_epsg(lon, lat))
    east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
    return Cell(epsg, math.floor(east / SIDE), math.floor(north / SIDE))


def overlaps(tiles: Sequence[Cell]) -> list[tuple[int, int]]:
    """Pairs of tiles of different zones whose squares overlap, as positions in ``tiles``, the smaller first."""
    tree = shapely.STRtree([cell.footprint for cell in tiles])
    pairs = tree.query(tree.geometries, predicate="intersects").T
    return sorted((int(a), int(b)) for a, b in pairs if a < b and tiles[a].epsg != tiles[b].epsg)


def block_split(
    tiles: Sequence[Cell], seed: int = 0, block: int = BLOCK, shares: tuple[float, float] = (0.70, 0.15)
) -> tuple[list[int], list[int], list[int]]:
    """Split tiles by area: the tiles of a block of ``block`` x ``block`` cells stay together.

    Tiles that overlap across a border of zones, directly or through others, form a block of their own, so that no pixel
    is in two parts. Tiles of two parts may touch at an edge.

    Returns:
        Positions of the training, validation and test tiles, each ascending.

    Raises:
        NoTiles: there are too few blocks for three parts.
    """
    from scipy.sparse import coo_array  # half a second to import, as above
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(overlaps(tiles)).reshape(-1, 2).T
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), shape=(len(tiles), len(tiles)))
    component = connected_components(graph, directed=False)[1]
    alone = np.bincount(component)[component] == 1
    keys = [
        (cell.epsg, cell.column // block, cell.row // block) if single else (0, int(number), 0)
        for cell, single, number in zip(tiles, alone, component)
    ]
    return split_groups(keys, seed, shares)


def _utm_zones(bounds: Bounds) -> list[int]:
    """The zones that bounds lie in, and one more on each side, whose squares may reach over the border."""
    west, south, east, north = bounds
    lons = np.arange(max(math.floor((west + 180) / 6) - 1, 0), min(math.floor((east + 180) / 6) + 1, 59) + 1) * 6 - 177
    lats = [lat for lat, meets in ((-1, south < 0.1), (1, north > -0.1)) if meets]
    return sorted({int(utm_epsg(lon, lat)) for lon in lons for lat in lats})


def _near_zone(bounds: Bounds, epsg: int) -> Bounds:
    """The part of the bounds that lies near a UTM zone, where its projection is accurate."""
    west, south, east, north = bounds
    middle = (epsg % 100) * 6 - 183
    west, east = sorted((min(max(west, middle - 4), middle + 4), min(max(east, middle - 4), middle + 4)))
    return west, south, east, north


def _projected(crs: str, geometry: shapely.Geometry) -> int:
    """The EPSG code of a CRS, which must be in meters and made for the area of the geometry."""
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as error:
        raise InvalidRegion(f"crs {crs!r} is unknown ({error}): give a code such as EPSG:3035") from error
    meters = parsed.is_projected and all(axis.unit_conversion_factor == 1 for axis in parsed.axis_info)
    code = parsed.to_epsg()
    area = CRS.from_epsg(code).area_of_use if meters and code else None
    if code is None or area is None:
        raise InvalidRegion(
            f"crs {crs!r} ({parsed.name}) is no projection in meters with an EPSG code: choose one, such as EPSG:3035, "
            "or none to use UTM"
        )
    spans = [(area.west, area.east)] if area.west <= area.east else [(area.west, 180), (-180, area.east)]
    if min(geometry.distance(shapely.box(west, area.south, east, area.north)) for west, east in spans) > MAX_DISTANCE:
        raise InvalidRegion(
            f"crs {crs!r} ({parsed.name}) is made for longitudes {area.west} to {area.east}, latitudes {area.south} to "
            f"{area.north}; the region {geometry.bounds} is far from there: choose another, or none to use UTM"
        )
    return code
