"""Where tiles lie: squares of 256 px of 30 m, in the UTM zone of their own center, named once for the whole Earth.

A tile's name is CRS, column and row, counted from the CRS's origin in steps of 7680 m: ``32630_c0057_r0574``. It
does not depend on the region that was asked for, so tiles built today and next year for other regions fit together.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sat2dem_core.dataset.splits import BLOCK, split_groups
from sat2dem_core.errors import InvalidRegion, NoTiles
from sat2dem_core.rasters.grids import to_degrees, utm_epsg

PIXELS, RESOLUTION = 256, 30.0  # px, meters: the paper's
SIDE = PIXELS * RESOLUTION  # meters
MAX_DISTANCE = 10  # degrees outside the area that a CRS is made for; far enough, projections tend to infinity

Bounds: TypeAlias = tuple[float, float, float, float]  # west, south, east, north
Region: TypeAlias = Bounds | shapely.Geometry | str | os.PathLike


@dataclass(frozen=True, order=True)
class Cell:
    """One square of the grid: EPSG code, column to the east, row to the north."""

    epsg: int
    column: int
    row: int

    @property
    def id(self) -> str:
        return f"{self.epsg}_c{self.column:04d}_r{self.row:04d}"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """The cell of that name.

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
    def geobox(self) -> GeoBox:
        """The pixels: shape, transform and CRS."""
        box = (self.left, self.top - SIDE, self.left + SIDE, self.top)
        return GeoBox.from_bbox(box, f"EPSG:{self.epsg}", shape=(PIXELS, PIXELS))

    @cached_property
    def footprint(self) -> shapely.Polygon:
        """The square in longitude and latitude."""
        return footprints(self.epsg, np.array([self.column]), np.array([self.row]))[0]

    def neighbors(self) -> list["Cell"]:
        """The eight cells around it in its own CRS."""
        around = [(dx, dy) for dy in (1, 0, -1) for dx in (-1, 0, 1) if dx or dy]
        return [Cell(self.epsg, self.column + dx, self.row + dy) for dx, dy in around]


def footprints(epsg: int, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squares of the grid as polygons in longitude and latitude."""
    x = (columns[:, None] + np.array([0.5, 0, 1, 1, 0])) * SIDE  # the center, then the corners
    y = (rows[:, None] + np.array([0.5, 0, 0, 1, 1])) * SIDE
    lon, lat = to_degrees(epsg).transform(x, y)
    lon -= 360 * np.round((lon - lon[:, :1]) / 360)  # on the center's side of the antimeridian, at 180.1 if need be
    return np.asarray(shapely.polygons(np.stack([lon, lat], -1)[:, 1:]))


def read_region(region: Region) -> shapely.Geometry:
    """A region as a geometry in longitude and latitude: a box (west, south, east, north), a geometry, a GeoJSON file.

    Raises:
        InvalidRegion: it is empty, crosses the antimeridian, is not in degrees, or the file is no GeoJSON.
    """
    if isinstance(region, str | os.PathLike):
        try:
            features = json.loads(Path(region).read_text(encoding="utf-8"))
            parts = [part.get("geometry", part) for part in features.get("features", [features])]
            region = shapely.unary_union([shapely.from_geojson(json.dumps(part)) for part in parts])
        except (OSError, ValueError, AttributeError, TypeError, shapely.errors.ShapelyError) as error:
            raise InvalidRegion(f"{region} cannot be read as GeoJSON ({error}): give a polygon in longitude and latitude") from error
    elif not isinstance(region, shapely.Geometry):
        west, south, east, north = region
        if west > east:
            raise InvalidRegion(
                f"the region from {west} to {east} degrees east crosses the antimeridian: ask for each side of it, "
                f"{west} to 180 and -180 to {east}"
            )
        if not (west < east and south < north):  # NaN is neither
            raise InvalidRegion(f"the region {tuple(region)} has no area: give west, south, east, north in degrees")
        region = shapely.box(west, south, east, north)
    if not region.area > 0:
        raise InvalidRegion(f"the region {region.bounds} has no area: give west, south, east, north in degrees")
    west, south, east, north = region.bounds
    if west < -180 or east > 180 or south < -80 or north > 84:
        raise InvalidRegion(
            f"the region {region.bounds} leaves longitudes of -180 to 180 or latitudes of -80 to 84 degrees: give west, "
            "south, east, north in degrees"
        )
    return region


def cells(region: Region, crs: str | None = None) -> list[Cell]:
    """The cells that meet a region: zone by zone, columns from west to east, each from south to north.

    Args:
        region: see :func:`read_region`.
        crs: one projected CRS in meters for all (``"EPSG:3035"``); by default each cell has the UTM zone of its own
            center. At a border of zones the squares of both sides lean against each other: some overlap
            (:func:`overlaps`), and slivers of ground between them belong to none.

    Raises:
        InvalidRegion: see :func:`read_region`; or the CRS is in degrees, has no EPSG code or is made for other ground.
        NoTiles: the region lies in a sliver between two zones.
    """
    geometry = read_region(region)
    codes = [_projected(crs, geometry)] if crs else _utm_zones(geometry.bounds)
    found = []
    for epsg in codes:
        west, south, east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform_bounds(
            *_within_zone(geometry.bounds, epsg, crs), densify_pts=99
        )
        columns = np.arange(math.floor(west / SIDE), math.floor(east / SIDE) + 1)
        rows = np.arange(math.floor(south / SIDE), math.floor(north / SIDE) + 1)
        columns, rows = (grid.ravel() for grid in np.meshgrid(columns, rows, indexing="ij"))
        shapes = footprints(epsg, columns, rows)
        keep = shapely.intersects(shapes, geometry) & ~shapely.touches(shapes, geometry)
        if crs is None:
            lon, lat = to_degrees(epsg).transform((columns + 0.5) * SIDE, (rows + 0.5) * SIDE)
            keep &= utm_epsg(lon, lat) == epsg
        found += [Cell(epsg, int(column), int(row)) for column, row in zip(columns[keep], rows[keep])]
    if not found:
        raise NoTiles(
            f"the region {geometry.bounds} lies between the tiles of two UTM zones: ask for a larger one, or give one CRS"
        )
    return found


def cell_at(x: float, y: float, crs: str) -> Cell:
    """The cell that holds a point, in any CRS, in the point's UTM zone; by its border perhaps none of :func:`cells`."""
    lon, lat = to_degrees(crs).transform(x, y)
    epsg = int(utm_epsg(lon, lat))
    east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
    return Cell(epsg, math.floor(east / SIDE), math.floor(north / SIDE))


def overlaps(tiles: Sequence[Cell]) -> list[tuple[int, int]]:
    """Pairs (numbers in ``tiles``, the smaller first) that share ground: neighbors across a border of zones."""
    tree = shapely.STRtree([cell.footprint for cell in tiles])
    pairs = tree.query(tree.geometries, predicate="intersects").T
    return sorted((int(a), int(b)) for a, b in pairs if a < b and tiles[a].epsg != tiles[b].epsg)


def block_split(
    tiles: Sequence[Cell], seed: int = 0, block: int = BLOCK, shares: tuple[float, float] = (0.70, 0.15)
) -> tuple[list[int], list[int], list[int]]:
    """Split tiles by ground: blocks of ``block`` x ``block`` cells fall into one part whole.

    Tiles that overlap across a border of zones, and all that hang together so, form a block of their own, so that no
    pixel is in two parts. Tiles of two parts may touch at an edge.

    Returns:
        The numbers of the training, validation and test tiles, each ascending.

    Raises:
        NoTiles: there are too few blocks for three parts.
    """
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
    # A square whose center lies next door may still reach over the border: one zone more on each side.
    west, south, east, north = bounds
    lons = np.arange(max(math.floor((west + 180) / 6) - 1, 0), min(math.floor((east + 180) / 6) + 1, 59) + 1) * 6 - 177
    lats = [lat for lat, there in ((-1, south < 0.1), (1, north > -0.1)) if there]
    return sorted({int(utm_epsg(lon, lat)) for lon in lons for lat in lats})


def _within_zone(bounds: Bounds, epsg: int, crs: str | None) -> Bounds:
    """The part of the bounds near the zone, where its projection is meant to be used; in a CRS given, all of it."""
    west, south, east, north = bounds
    if crs:
        return bounds
    middle = (epsg % 100) * 6 - 183
    west, east = sorted((min(max(west, middle - 4), middle + 4), min(max(east, middle - 4), middle + 4)))
    return west, south, east, north


def _projected(crs: str, geometry: shapely.Geometry) -> int:
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as error:
        raise InvalidRegion(f"crs {crs!r} is not known ({error}): give a code such as EPSG:3035") from error
    meters = parsed.is_projected and all(axis.unit_conversion_factor == 1 for axis in parsed.axis_info)
    code = parsed.to_epsg()
    area = CRS.from_epsg(code).area_of_use if meters and code else None
    if code is None or area is None:
        raise InvalidRegion(
            f"crs {crs!r} ({parsed.name}) is no projection in meters with an EPSG code: tiles of 30 m need one, such as "
            "EPSG:3035, or none to use UTM"
        )
    spans = [(area.west, area.east)] if area.west <= area.east else [(area.west, 180), (-180, area.east)]
    if min(geometry.distance(shapely.box(west, area.south, east, area.north)) for west, east in spans) > MAX_DISTANCE:
        raise InvalidRegion(
            f"crs {crs!r} ({parsed.name}) is made for longitudes {area.west} to {area.east}, latitudes {area.south} to "
            f"{area.north}; the region {geometry.bounds} is far from there: choose another, or none to use UTM"
        )
    return code
