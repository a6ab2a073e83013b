"""A small world whose truth is known, as COGs and STAC items: terrain, two satellites, clouds, a coast.

Surface reflectance is a smooth function of longitude and latitude, elevation another; every file samples them on its
own grid, as a catalog's files do, so that what is built from the files can be compared with the functions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

from sat2dem_core.dataset.grid import cell_at, cells

BANDS = ("red", "green", "blue")
PLACE, EDGE = cell_at(-3.4, 40.12, "EPSG:4326"), cell_at(-3.7, 40.5, "EPSG:4326")
COAST = cell_at(-3.0, 40.6, "EPSG:4326")
BORDER_REGION = (-6.04, 40.85, -5.96, 40.91)  # tiles of two UTM zones
BORDER = cells(BORDER_REGION)


def reflectance(lon, lat) -> np.ndarray:
    """(3, ...) surface reflectance, 0.05 to 0.25."""
    return np.stack([0.15 + 0.1 * np.sin(lon * 40 + shift) * np.cos(lat * 30) for shift in (0, 1, 2)])


def elevation(lon, lat) -> np.ndarray:
    """Meters."""
    return (900 + 400 * np.sin(lon * 25) * np.cos(lat * 20)).astype(np.float32)


@dataclass
class World:
    """Files in a folder and the items that describe them."""

    folder: Path
    url: str
    items: list[dict]

    def fill(self) -> None:
        """Add the items of the places that tests use.

        ``PLACE`` has five Sentinel-2 acquisitions, of every kind of offset and with clouds, and three of Landsat.
        ``BORDER`` lies on both sides of 6° W, where two UTM zones meet. East of ``COAST`` is open sea. ``EDGE`` is half
        covered.
        """
        left, top = PLACE.left - 400, PLACE.top + 400
        everywhere = slice(0, 440)
        rows, columns = (lambda a, b: (slice(a, b), everywhere)), (lambda a, b: (everywhere, slice(a, b)))
        self.add_sentinel("2021-06-01", PLACE.epsg, left, top, 440, baseline="02.14", applied=None, cloud=rows(0, 90))
        self.add_sentinel("2023-06-01", PLACE.epsg, left, top, 440, applied=True, cloud=rows(90, 200))
        self.add_sentinel("2023-06-06", PLACE.epsg, left, top, 440, applied=False, cloud=columns(0, 150))
        self.add_sentinel("2023-06-11", PLACE.epsg, left, top, 440, applied=None, cloud=columns(300, 440))
        self.add_sentinel("2023-06-16", PLACE.epsg, left, top, 440, applied=True, haze=0.5, cloud=columns(0, 352))
        self.add_landsat("2023-06-03", PLACE.epsg, left, top, 290, cloud=(slice(0, 60), slice(0, 290)))
        self.add_landsat("2023-06-19", PLACE.epsg, left, top, 290, platform="landsat-8")
        self.add_landsat("2023-06-27", PLACE.epsg, left, top, 290, platform="landsat-7")
        for cell in {cell.epsg: cell for cell in BORDER}.values():
            self.add_sentinel("2023-07-01", cell.epsg, cell.left - 8000, cell.top + 8000, 1200)
        self.add_sentinel("2023-07-02", COAST.epsg, COAST.left - 400, COAST.top + 400, 440)
        self.add_sentinel("2023-07-03", EDGE.epsg, EDGE.left - 400, EDGE.top + 400, 220)
        self.add_elevation(-4, 39, void=(slice(600, 605), slice(600, 605)))
        for west, south in ((-4, 40), (-7, 40), (-6, 40)):
            self.add_elevation(west, south)

    def add_sentinel(
        self, date: str, epsg: int, left: float, top: float, size: int = 400, *, baseline: str = "05.09",
        applied: bool | None = True, cloud: tuple | None = None, haze: float = 0.0, name: str = "",
    ) -> dict:
        """Add a Sentinel-2 item of ``size`` px of 20 m; ``cloud`` (rows, columns) is bright and masked by SCL."""
        lon, lat = _lonlat(epsg, left, top, size, 20.0)
        number = np.round((reflectance(lon, lat) + haze) * 10000)
        scl = np.full((size, size), 5, np.uint8)
        if cloud:
            number[:, *cloud], scl[cloud] = 9000, 9
        if not applied and float(baseline) >= 4:
            number += 1000
        id = name or f"S2A_{epsg}_{date.replace('-', '')}"
        properties = {
            "platform": "sentinel-2a", "eo:cloud_cover": 100 * float((scl == 9).mean()),
            "s2:processing_baseline": baseline, "view:sun_azimuth": 150.0, "view:sun_elevation": 50.0,
        }
        if applied is not None:
            properties["earthsearch:boa_offset_applied"] = applied
        files = dict(zip(BANDS, number.astype(np.uint16))) | {"scl": scl}
        return self._add("sentinel-2-l2a", id, date, epsg, left, top, 20.0, files, properties, nodata=0)

    def add_landsat(
        self, date: str, epsg: int, left: float, top: float, size: int = 300, *, platform: str = "landsat-9",
        cloud: tuple | None = None,
    ) -> dict:
        """Add a Landsat Collection 2 Level-2 item of ``size`` px of 30 m."""
        lon, lat = _lonlat(epsg, left, top, size, 30.0)
        number = np.round((reflectance(lon, lat) + 0.2) / 2.75e-5)
        qa = np.full((size, size), 21824, np.uint16)  # clear land
        if cloud:
            number[:, *cloud], qa[cloud] = 60000, 22280  # high confidence cloud
        properties = {
            "platform": platform, "eo:cloud_cover": 100 * float((qa == 22280).mean()),
            "view:sun_azimuth": 140.0, "view:sun_elevation": 55.0,
        }
        files = dict(zip(BANDS, number.astype(np.uint16))) | {"qa_pixel": qa}
        id = f"LC09_{epsg}_{date.replace('-', '')}_{platform[-1]}"
        return self._add("landsat-c2-l2", id, date, epsg, left, top, 30.0, files, properties, nodata=0)

    def add_elevation(self, west: int, south: int, void: tuple | None = None, step: float = 1 / 1200) -> dict:
        """Add a GLO-30 item of one degree, at three arc seconds to stay small; ``void`` is -32767, undeclared."""
        size = round(1 / step)
        lon, lat = np.meshgrid(west + (np.arange(size) + 0.5) * step, south + 1 - (np.arange(size) + 0.5) * step)
        height = elevation(lon, lat)
        if void:
            height[void] = -32767
        id = f"Copernicus_DSM_COG_10_N{south}_{west}_DEM"
        return self._add("cop-dem-glo-30", id, "2021-04-22", 4326, west, south + 1, step, {"data": height}, {})

    def _add(self, collection, id, date, epsg, left, top, step, files, properties, nodata=None) -> dict:
        assets = {}
        for key, array in files.items():
            path = self.folder / f"{id}_{key}.tif"
            with rasterio.open(
                path, "w", driver="COG", count=1, height=array.shape[0], width=array.shape[1], dtype=array.dtype,
                crs=f"EPSG:{epsg}", transform=from_origin(left, top, step, step), nodata=nodata,
                blocksize=256, overviews="none", compress="deflate",
            ) as file:
                file.write(array, 1)
            kind = "image/tiff; application=geotiff; profile=cloud-optimized"
            assets[key] = {"href": f"{self.url}/{path.name}", "type": kind, "roles": ["data"]}
        height, width = array.shape
        corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]) * (width * step, -height * step) + (left, top)
        lon, lat = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True).transform(*corners.T)
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": id, "collection": collection, "links": [],
            "assets": assets,
            "geometry": {"type": "Polygon", "coordinates": [[[float(x), float(y)] for x, y in zip(lon, lat)]]},
            "bbox": [float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())],
            "properties": {"datetime": f"{date}T11:00:00Z", "proj:epsg": epsg} | properties,
        }
        self.items.append(item)
        return item

    def collections(self) -> list[dict]:
        """The collections of the items."""
        extent = {
            "spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2013-01-01T00:00:00Z", None]]},
        }
        return [
            {
                "type": "Collection", "stac_version": "1.0.0", "id": name, "description": name,
                "license": "proprietary", "links": [], "extent": extent,
            }
            for name in sorted({item["collection"] for item in self.items})
        ]


def _lonlat(epsg: int, left: float, top: float, size: int, step: float):
    x, y = np.meshgrid(left + (np.arange(size) + 0.5) * step, top - (np.arange(size) + 0.5) * step)
    return Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True).transform(x, y)
