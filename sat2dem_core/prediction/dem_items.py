"""A STAC item that describes a DEM and the files next to it: where it lies, of when, made from what and how.

It follows STAC 1.1 with the extensions projection, raster and processing, and is written without a library, since it is
one small dictionary; tests validate it with pystac. Catalogs such as a STAC API take it as it is.

The extension MLM (machine learning models) describes a model, and its schema asks every item that names it for the
model's architecture, input and output, and for an asset with the weights. A DEM is no model. So the item does not name
the extension, and does what MLM's best practices ask of a model's output: ``mlm:name``, the processing level L4, and a
``processing:expression`` that identifies the model, here by the SHA-256 of its weights.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from sat2dem_core import __version__
from sat2dem_core.errors import InvalidConfig, MissingCRS
from sat2dem_core.prediction.items import ItemImage, name_of
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.grids import Grid, apply, pixel_size, same_crs, square_size, to_degrees
from sat2dem_core.rasters.imagery import Image
from sat2dem_core.rasters.reader import local_file, opened
from sat2dem_core.rasters.solar import taken

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "raster/v2.0.0", "processing/v1.2.0")
)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
TITLES = {
    "elevation": "Elevation", "interval": "Half width of the prediction interval",
    "distance": "Distance of the image from the training distribution; above 1, it lies outside",
    "difference": "What the image changed", "style": "Colors for QGIS",
}
STATISTICS = {"minimum": "MINIMUM", "maximum": "MAXIMUM", "mean": "MEAN", "stddev": "STDDEV"}  # STAC's name, GDAL's
EARTH = 6_371_000  # its radius, meters
EDGE = 16  # points along each side of an outline, which is curved in degrees
DIGITS = 7  # of degrees: a centimeter


class Source(NamedTuple):
    """What a DEM was derived from: an address or an absolute path, its title, and whether it is a STAC item."""

    place: str
    title: str
    is_item: bool = False


@dataclass(frozen=True)
class Description:
    """What an item says of a DEM besides what its files say.

    Attributes:
        taken: when its image was: ``datetime``, and ``start_datetime`` and ``end_datetime`` where that is a period.
        sources: what it was derived from.
    """

    taken: dict[str, str | None]
    sources: tuple[Source, ...]

    def text(
        self, files: Mapping[str, Path], written: Mapping[str, Path], grid: Grid, tags: Mapping[str, str],
        units: Mapping[str, str] = cog.BANDS,
    ) -> str:
        """The item as JSON.

        Args:
            files: the DEM, called ``elevation``, and the files next to it by the names of their bands; ``item`` is the
                item's own.
            written: where the rasters among them lie until they are renamed.
            grid: of the DEM.
            tags: of the files.
            units: of all bands, by name.
        """
        out = files["elevation"]
        shape = footprint(grid)
        properties = self.taken | {
            "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "title": f"Elevation from {tags['IMAGE']}",
            "gsd": round(_spacing(grid), 3), **_projection(grid), **_processing(tags, self.sources[1:]),
        } | {f"sat2dem:{name.lower()}": text for name, text in tags.items() if name != "AREA_OR_POINT"}
        if out.suffix == ".zarr":
            bands = [_band(name, unit, grid, "nan") for name, unit in units.items()]
            assets = {"elevation": {
                "href": f"./{out.name}", "type": "application/vnd+zarr", "title": TITLES["elevation"],
                "roles": ["data"], "bands": bands,
            }}
        else:
            folder = files["item"].absolute().parent
            assets = {
                name: {"href": _relative(path, folder), **_asset(name, units.get(name), grid, written.get(name))}
                for name, path in files.items() if name != "item"
            }
        item = {
            "type": "Feature", "stac_version": "1.1.0", "stac_extensions": list(EXTENSIONS), "id": out.stem,
            "geometry": mapping(shape), "bbox": _bbox(shape), "properties": properties,
            "links": [_link(source, files["item"].absolute().parent) for source in self.sources], "assets": assets,
        }
        return json.dumps(item, indent=2, ensure_ascii=False) + "\n"


def describe(
    image: str | os.PathLike, picture: Image, date: str | None, more: Sequence[str | os.PathLike | None] = ()
) -> Description:
    """What can be said of a DEM before it is made.

    Args:
        image: its path, or a STAC item's.
        picture: what was opened there.
        date: when it was taken, as given.
        more: what else the DEM is made from; what is no file is left out.

    Raises:
        MissingCRS: the image has no coordinates.
        InvalidConfig: nothing says when it was taken.
    """
    if picture.grid.crs is None:
        raise MissingCRS(f"{image} has no coordinates, and a STAC item needs a place: leave out the item (--stac)")
    if isinstance(image, ItemImage):
        sources = [Source(image.link, image.id, True)]
    else:
        sources = [Source(_place(image), name_of(image))]
    sources += [Source(_place(path), name_of(path)) for path in more if path is not None and _is_file(path)]
    return Description(_taken(image, date), tuple(sources))


def _taken(image: str | os.PathLike, date: str | None) -> dict[str, str | None]:
    """When an image was taken, as an item's properties."""
    if date is None and isinstance(image, ItemImage):
        return {name: text for name, text in image.taken.items() if text is not None or name == "datetime"}
    when = taken(image, date)
    if when is None:
        raise InvalidConfig(f"{image} does not say when it was taken, and a STAC item must: give its date (--date)")
    if not when.day_only:
        return {"datetime": _utc(when.moment)}
    end = when.moment + timedelta(days=1, seconds=-1)
    return {"datetime": _utc(when.moment), "start_datetime": _utc(when.moment), "end_datetime": _utc(end)}


def _utc(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _is_file(path: str | os.PathLike) -> bool:
    file = local_file(path)
    return file is None or file.exists()


def _place(path: str | os.PathLike) -> str:
    """The address of a raster, or the absolute path of its file, which may be an archive."""
    file = local_file(path)
    return re.sub("^/vsicurl/", "", os.fspath(path)) if file is None else str(file.absolute())


def _link(source: Source, folder: Path) -> dict[str, str]:
    """The link from an item in a folder."""
    path = Path(source.place)
    link = {"rel": "derived_from", "href": _relative(path, folder) if path.is_absolute() else source.place}
    return link | {"title": source.title} | ({"type": "application/geo+json"} if source.is_item else {})


def _relative(path: Path, folder: Path) -> str:
    """A path as a link from a folder."""
    try:
        href = Path(os.path.relpath(path.absolute(), folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.absolute().as_uri()
    return href if href.startswith("../") else f"./{href}"


# Place


def footprint(grid: Grid) -> shapely.Geometry:
    """The outline of a grid in longitude and latitude, cut where it crosses 180 degrees (RFC 7946, 3.1.9).

    Around a pole, it is everything from the southernmost (or northernmost) point of the grid to the pole.
    """
    steps = np.arange(EDGE) / EDGE
    x = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps, [0]]) * grid.width
    y = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps, [0]]) * grid.height
    lon, lat = to_degrees(grid.crs).transform(*apply(grid.affine, x, y))
    lon = np.unwrap(np.asarray(lon), period=360)
    if abs(lon[-1] - lon[0]) > 180:
        south, north = (lat.min(), 90.0) if lat.mean() > 0 else (-90.0, lat.max())
        return shapely.box(-180, round(south, DIGITS), 180, round(north, DIGITS))
    pixel = math.degrees(_spacing(grid) / EARTH)
    outline = shapely.simplify(shapely.polygons(np.stack([lon, lat], 1).round(DIGITS)), pixel / 2)
    first, last = (math.floor((end + 180) / 360) for end in (lon.min(), lon.max()))
    parts = [_between(outline, 360 * turn) for turn in range(first, last + 1)]
    parts = [orient(part) for part in parts if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _between(outline: shapely.Geometry, middle: float) -> shapely.Geometry:
    """The part of an outline within 180 degrees of a longitude, which becomes 0."""
    inside = shapely.box(middle - 180, -90, middle + 180, 90)
    part = outline if shapely.covers(inside, outline) else shapely.intersection(outline, inside)
    return shapely.transform(part, lambda points: points - (middle, 0))


def _bbox(shape: shapely.Geometry) -> list[float]:
    """West, south, east, north; west of a shape that crosses 180 degrees is larger than east (RFC 7946, 5.2)."""
    west, south, east, north = shape.bounds
    parts = sorted((part.bounds for part in shapely.get_parts(shape)), key=lambda bounds: bounds[0])
    if len(parts) == 2 and parts[0][2] < parts[1][0]:  # otherwise it goes around the Earth
        west, east = parts[1][0], parts[0][2]
    return [west, south, east, north]


def _spacing(grid: Grid) -> float:
    """Ground sampling distance, meters."""
    return square_size(pixel_size(grid.crs, grid.affine, grid.width, grid.height))


def _projection(grid: Grid) -> dict[str, Any]:
    crs = CRS.from_wkt(grid.crs or "")
    authority = crs.to_authority()
    code = ":".join(authority) if authority else None
    known = code is not None and same_crs(CRS.from_user_input(code).to_wkt(), grid.crs)
    named = {"proj:code": code} if known else {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    return named | {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)}


# Files


def _processing(tags: Mapping[str, str], more: Sequence[Source]) -> dict[str, Any]:
    """How the DEM was made, and by which model."""
    import torch

    names, checksums = tags["MODEL"].split(", "), tags["WEIGHTS_SHA256"].split(", ")
    origin = ", and from ".join([f"red, green and blue of {tags['IMAGE']}", *(source.title for source in more)])
    weights = [{"name": name, "sha256": checksum} for name, checksum in zip(names, checksums)]
    return {
        "processing:level": "L4", "processing:software": {"sat2dem-core": __version__, "torch": torch.__version__},
        "processing:lineage": f"Elevation predicted by a neural network from {origin}; heights are {tags['HEIGHTS']}",
        "processing:expression": {"format": "safetensors-sha256", "expression": weights}, "mlm:name": names[0],
    }


def _asset(name: str, unit: str | None, grid: Grid, path: Path | None) -> dict[str, Any]:
    """All of an asset but its address; a raster's is read from its file."""
    title = TITLES.get(name, name)
    if unit is None or path is None:
        return {"type": "application/xml", "title": title, "roles": ["metadata"]}
    return {
        "type": COG, "title": title, "roles": ["data"] if name == "elevation" else ["metadata"],
        "bands": [_band(name, unit, grid) | _statistics(path)],
    }


def _band(name: str, unit: str, grid: Grid, nodata: float | str = cog.NODATA) -> dict[str, Any]:
    return {
        "name": name, "data_type": "float32", "nodata": nodata, "unit": unit, "raster:sampling": "area",
        "raster:spatial_resolution": round(_spacing(grid), 3),
    }


def _statistics(path: Path) -> dict[str, Any]:
    """The statistics that a file holds already."""
    with opened(path) as file:
        tags = file.tags(1)
    stated = {name: float(tags[key]) for name, gdal in STATISTICS.items() if (key := f"STATISTICS_{gdal}") in tags}
    if "STATISTICS_VALID_PERCENT" in tags:
        stated["valid_percent"] = float(tags["STATISTICS_VALID_PERCENT"])
    return {"statistics": stated} if stated else {}
