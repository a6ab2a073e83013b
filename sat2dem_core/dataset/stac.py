"""Imagery and elevation from open STAC catalogs: one cloudless image of an area from all acquisitions of a period.

In every acquisition clouds and their shadows are masked and digital numbers become surface reflectance; each pixel
takes the median over its clear days, as in the paper, which also removes most clouds that a mask misses.
"""

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock

import numpy as np
import odc.stac
import pandas as pd
import planetary_computer
import pystac
import rasterio
import requests
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from scipy.ndimage import binary_dilation, binary_erosion
from urllib3 import Retry

from sat2dem_core.dataset.catalogs import Request, Source
from sat2dem_core.dataset.grid import Bounds, Cell
from sat2dem_core.errors import EmptySearch, MissingAsset, Unreachable
from sat2dem_core.rasters.grids import to_degrees
from sat2dem_core.terrain import HIGHEST, LOWEST

ATTEMPTS = 4  # tries of a search or a file; the wait between them doubles
READERS = 8  # files read at once for one tile: readers mostly wait for the server
# Times in seconds; a transfer of fewer bytes per second than LOW_SPEED_LIMIT counts as stalled.
HTTP = {
    "GDAL_HTTP_CONNECTTIMEOUT": 20, "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_LOW_SPEED_TIME": 30, "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
    "GDAL_HTTP_MAX_RETRY": 4, "GDAL_HTTP_RETRY_DELAY": 1, "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "AWS_NO_SIGN_REQUEST": "YES",
}
# GDAL remembers a file's header, which saves every further tile three requests, but also remembers a file that failed
# as missing: a second try has to bypass its memory.
NO_CACHE = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http"}

# Sentinel-2 scene classes that show the surface: dark, vegetation, bare, water, unclassified, snow. Not: nodata,
# saturated, cloud shadow, clouds of medium and high probability, cirrus (SCL; ESA's Level-2A product definition).
SCL_CLEAR = (2, 4, 5, 6, 7, 11)
BASELINE = re.compile(r"[Nn]?(\d{1,2})(?:\.?\d{2}|\.\d)?")  # 05.09, 5.09, and N0509 as in names of files
# Landsat QA_PIXEL bits that hide the surface: fill, dilated cloud, cirrus, cloud, cloud shadow (USGS LSDS-1619).
QA_HIDDEN = 0b11111


def _sentinel_scaling(item: pystac.Item) -> tuple[float, float]:
    """Scale and offset of an item's numbers.

    Reflectance is (number - 1000) / 10000 from processing baseline 04.00 on, and number / 10000 before. A catalog that
    has already subtracted the 1000 states so, and it must not be subtracted twice.
    """
    if item.properties.get("earthsearch:boa_offset_applied"):
        return 1e-4, 0.0
    baseline = item.properties.get("s2:processing_baseline") or item.properties.get("processing:version")
    match = BASELINE.fullmatch(str(baseline).strip())
    if match is None:
        raise MissingAsset(
            f"{item.id} states no processing baseline that can be read ({baseline!r}), so whether its numbers contain "
            "the offset of 1000 is unknown: leave it out with exclude"
        )
    return 1e-4, -0.1 if int(match[1]) >= 4 else 0.0


# For each sensor: which pixels of a mask are clear, and (scale, offset) from numbers to reflectance.
SENSORS: dict[str, tuple[Callable, Callable]] = {
    "sentinel-2": (lambda mask: np.isin(mask, SCL_CLEAR), _sentinel_scaling),
    "landsat": (lambda mask: (mask & QA_HIDDEN) == 0, lambda item: (2.75e-5, -0.2)),  # Collection 2 Level-2 (USGS)
}


def search(
    origin: Source, bounds: Bounds, start: str | None = None, end: str | None = None, max_cloud: float | None = None,
    most: int | None = None,
) -> list[pystac.Item]:
    """The items of a source that meet a box (west, south, east, north), sorted by time and id, each once.

    Args:
        bounds: it may reach across 180 degrees.
        most: how many items to ask for; by default all.

    Raises:
        Unreachable: the catalog does not answer or refuses, after all tries.
    """
    retry = Retry(total=ATTEMPTS, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None)
    query = {"query": {"eo:cloud_cover": {"lte": max_cloud}}} if max_cloud is not None else {}
    period = f"{start}/{end}" if start else None
    try:
        client = Client.open(origin.url, stac_io=StacApiIO(max_retries=retry, timeout=(20, 60)))
        found = [
            item for box in _boxes(bounds)
            for item in client.search(
                collections=[origin.collection], bbox=box, datetime=period, limit=min(100, most or 100), max_items=most,
                **query,
            ).items_as_dicts()
        ]
    except (APIError, requests.RequestException) as error:
        raise Unreachable(
            f"{origin.url} does not answer a search of {origin.collection} ({error}): try later"
        ) from error
    items = {item.id: item for item in map(_understood, found) if item is not None}  # each once
    wanted = [item for item in items.values() if not origin.platforms or _platform(item) in origin.platforms]
    return sorted(wanted, key=lambda item: (str(item.properties.get("datetime")), item.id))


def _understood(found: dict) -> pystac.Item | None:
    """An item of an answer; None, with a warning, if it states no time or no place, or is no item at all."""
    try:
        item = pystac.Item.from_dict(found, preserve_dict=False)
        place = _place(item)
    except (
        pystac.STACError, pystac.STACTypeError, shapely.errors.ShapelyError, ValueError, KeyError, TypeError,
        AttributeError,
    ) as error:
        fault = f"is no item that can be read ({error or type(error).__name__})"
    else:
        if not place.is_empty and np.isfinite(place.bounds).all():
            return item
        fault = "states no place"
    name = found.get("id") if isinstance(found, dict) else None
    warnings.warn(f"{name or 'an item without a name'} {fault} and is left out", stacklevel=3)
    return None


def _place(item: pystac.Item) -> shapely.Geometry:
    """The outline of an item, or else its box; empty if it states neither."""
    if item.geometry:
        return shapely.geometry.shape(item.geometry)
    return shapely.box(*item.bbox) if item.bbox else shapely.Polygon()


def _boxes(bounds: Bounds) -> list[Bounds]:
    """A box as catalogs accept it, between -180 and 180 degrees: two boxes where it reaches across."""
    west, south, east, north = bounds
    south, north = max(south, -90.0), min(north, 90.0)
    if east - west >= 360:
        return [(-180.0, south, 180.0, north)]
    if east > 180:
        return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]
    if west < -180:
        return [(west + 360, south, 180.0, north), (-180.0, south, east, north)]
    return [(west, south, east, north)]


def _platform(item: pystac.Item) -> str:
    return str(item.properties.get("platform", "")).upper().replace("-", "_")


def check(request: Request, bounds: Bounds) -> None:
    """Check that both catalogs have anything for a region, before the work begins.

    Raises:
        EmptySearch: a catalog has nothing; the message names the filter that left nothing.
        Unreachable: see :func:`search`.
    """
    if not search(request.elevation, bounds, most=1):
        raise EmptySearch(
            f"{request.elevation.collection} has no elevation in {bounds}: the region lies at sea; move it to land"
        )
    imagery = request.imagery
    most = None if imagery.platforms else 1  # other satellites are left out of an answer, not asked for
    if search(imagery, bounds, request.start, request.end, request.max_cloud, most):
        return
    catalog = f"{imagery.collection} at {imagery.url}"
    cloudy = search(imagery, bounds, request.start, request.end)
    if cloudy:
        covers = [cover for item in cloudy if (cover := item.properties.get("eo:cloud_cover")) is not None]
        clearest = f"the clearest has {min(covers):.0f} %" if covers else "none states its cloud cover"
        raise EmptySearch(
            f"{catalog} has {len(cloudy)} acquisitions from {request.start} to {request.end}, none with at most "
            f"{request.max_cloud:g} % cloud ({clearest}): raise max_cloud or lengthen the period"
        )
    raise EmptySearch(
        f"{catalog} has nothing from {request.start} to {request.end} in {bounds}: choose another period, sensor or "
        "catalog"
    )


def composite(items: Sequence[pystac.Item], geobox: GeoBox, imagery: Source) -> xr.Dataset:
    """One cloudless image: the median of each pixel over its clear days.

    Acquisitions of one day and satellite are one look: where their frames overlap, the first clear one counts. A ring
    of one pixel around masked pixels is masked, too, because averaging mixes them into their neighbors. An item that
    lacks an asset, its time, its offset or its coordinate reference system is left out, with a warning.

    Args:
        items: acquisitions that meet the geobox; see :func:`search`.
        geobox: the grid of the result. Bands are averaged onto it; masks take the nearest class.

    Returns:
        ``reflectance`` (band, y, x; float32, NaN where no look is clear); attributes: ``acquisitions``, ``dates``,
        ``cloud_share`` of the observed pixels, and the median ``sun_azimuth`` and ``sun_elevation`` in degrees (NaN
        where the catalog has none).

    Raises:
        Unreachable: a file cannot be read, after all tries.
    """
    needed = (*imagery.bands, imagery.mask)
    is_clear, scaling = SENSORS[imagery.sensor]
    looks: dict[tuple, np.ndarray] = {}  # by satellite and day: reflectance (3, y, x), NaN where not clear
    observed, hidden, used = 0, 0, []
    complete = _complete(items, imagery)
    with ThreadPoolExecutor(READERS) as pool:
        rasters = pool.map(lambda item: _read_or_fault(item, needed, geobox, imagery), complete)
        for item, read in zip(complete, rasters):
            if isinstance(read, MissingAsset):
                warnings.warn(f"{read}; it is left out", stacklevel=2)
                continue
            *bands, mask = read
            numbers = np.stack(bands)  # (3, y, x)
            inside = (numbers > 0).all(0)
            if not inside.any():
                continue
            clear = inside & is_clear(mask)
            observed, hidden = observed + inside.sum(), hidden + (inside & ~clear).sum()
            used.append(item)
            reflectance = _reflectance(numbers, clear, *scaling(item))
            look = _look(item)
            looks[look] = np.where(np.isnan(looks[look]), reflectance, looks[look]) if look in looks else reflectance
    image, (azimuth, altitude) = _median(list(looks.values()), geobox), _median_sun(used)
    return xr.Dataset(
        {"reflectance": (("band", "y", "x"), image)},
        coords={"band": ["red", "green", "blue"], **xr_coords(geobox)},
        attrs={
            "acquisitions": [item.id for item in used], "dates": sorted({_day(item) for item in used}),
            "cloud_share": float(hidden / observed) if observed else np.nan,
            "sun_azimuth": azimuth, "sun_elevation": altitude,
        },
    )


def _complete(items: Sequence[pystac.Item], imagery: Source) -> list[pystac.Item]:
    """The items that have all that is needed; warns of each that has not."""
    needed, scaling = (*imagery.bands, imagery.mask), SENSORS[imagery.sensor][1]
    complete = []
    for item in items:
        if missing := set(needed) - set(item.assets):
            fault = f"{item.id} has no asset {', '.join(sorted(missing))}"
        elif not (item.properties.get("datetime") or item.properties.get("start_datetime")):
            fault = f"{item.id} states no time"
        else:
            try:
                scaling(item)
            except MissingAsset as error:
                fault = str(error).split(": leave it out")[0]
            else:
                complete.append(item)
                continue
        warnings.warn(f"{fault} and is left out", stacklevel=3)
    return complete


def _reflectance(numbers: np.ndarray, clear: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """Reflectance (3, y, x) from digital numbers, NaN where not clear and in a ring of one pixel around that."""
    inner = binary_erosion(clear, np.ones((3, 3)), border_value=1)
    return np.where(inner, numbers * np.float32(scale) + np.float32(offset), np.float32(np.nan))


def _median(looks: list[np.ndarray], geobox: GeoBox) -> np.ndarray:
    """The median over looks, (3, y, x) float32; NaN where no look is clear."""
    if not looks:
        return np.full((3, *geobox.shape), np.nan, np.float32)
    stack = np.stack(looks)
    hidden = np.isnan(stack).all(0)
    stack[0, hidden] = 0  # NumPy would warn of pixels without a clear look
    return np.where(hidden, np.nan, np.nanmedian(stack, 0)).astype(np.float32)


def _median_sun(items: list[pystac.Item]) -> tuple[float, float]:
    """Median azimuth and elevation of the sun in degrees; NaN where no item has them."""
    azimuth, altitude = pd.DataFrame([sun_of(item) for item in items], columns=["azimuth", "elevation"]).median()
    return float(azimuth), float(altitude)


def elevation(items: Sequence[pystac.Item], geobox: GeoBox, origin: Source) -> xr.DataArray:
    """Surface elevation on a grid, float32 meters above the EGM2008 geoid.

    GLO-30 has no file over open sea: there the elevation is 0, and the attribute ``sea_share`` is the share of such
    pixels. Voids inside a file are NaN. Each file is interpolated on its own, so that half a pixel is extrapolated
    where two files meet.

    Raises:
        Unreachable: see :func:`composite`.
        MissingAsset: an item states no bounding box.
    """
    rasters = [_read(item, origin.bands, geobox, origin)[0] for item in items]
    height = np.full(geobox.shape, np.nan, np.float32)
    for raster in rasters:
        # Interpolation mixes a void that the file does not declare into neighboring pixels.
        valid = ~np.isnan(raster) & ~binary_dilation((raster < LOWEST) | (raster > HIGHEST), np.ones((3, 3)))
        height = np.where(np.isnan(height) & valid, raster, height)
    sea = ~_covered(items, geobox) & np.isnan(height)
    height[sea] = 0
    attrs = {"units": "m", "long_name": "surface elevation above EGM2008", "sea_share": float(sea.mean())}
    return xr.DataArray(height, dims=("y", "x"), coords=xr_coords(geobox), attrs=attrs)


def _covered(items: Sequence[pystac.Item], geobox: GeoBox) -> np.ndarray:
    """Where the bounding box of an item lies, (y, x) bool."""
    y, x = (geobox.coords[axis].values for axis in geobox.dims)
    lon, lat = to_degrees(geobox.crs).transform(*np.meshgrid(x, y))
    covered = np.zeros(geobox.shape, bool)
    for item in items:
        if item.bbox is None:
            raise MissingAsset(
                f"{item.id} states no bounding box, so its voids cannot be distinguished from open sea: use another "
                "catalog"
            )
        west, south, east, north = item.bbox
        covered |= (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    return covered


def to_uint8(reflectance: np.ndarray, stretch: tuple[float, float]) -> np.ndarray:
    """Reflectance as uint8: ``stretch`` is mapped linearly to 0 and 255, values outside are clipped, NaN becomes 0."""
    low, high = stretch
    return (np.nan_to_num((reflectance - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8)


def tile(cell: Cell, request: Request) -> xr.Dataset:
    """One tile of the grid, as :func:`pair` makes it from all items that the catalogs have for it.

    Raises:
        Unreachable, MissingAsset: see :func:`composite`.
    """
    square = shapely.box(*cell.footprint.bounds)
    west, south, east, north = square.bounds
    block = (np.floor(west), np.floor(south), np.floor(east) + 1, np.floor(north) + 1)
    looks = _in_block(request.imagery, block, request.start, request.end, request.max_cloud)
    wanted = [item for item in looks if item.id not in request.exclude and _meets(item, square)]
    wanted = _clearest(_complete(wanted, request.imagery), request.most_looks)
    return pair(cell, wanted, [item for item in _in_block(request.elevation, block) if _meets(item, square)], request)


def pair(cell: Cell, looks: Sequence[pystac.Item], heights: Sequence[pystac.Item], request: Request) -> xr.Dataset:
    """A tile from given items, with ``rgb`` (band, y, x; uint8) and ``dem`` (y, x; float32 meters) as in a scene.

    The elevation is NaN where there is no clear image or no elevation, because there is no pair. Attributes: those of
    :func:`composite`, ``crs``, ``left`` and ``top``, ``sea_share``, ``nodata_share`` and ``license``.

    Raises:
        Unreachable, MissingAsset: see :func:`composite`.
    """
    image = composite(looks, cell.geobox, request.imagery)
    surface = elevation(heights, cell.geobox, request.elevation)
    dem = surface.where(image.reflectance.notnull().all("band"))
    rgb = to_uint8(image.reflectance.values, request.stretch)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": dem}).assign_coords(image.coords)
    scene.attrs = image.attrs | {
        "crs": f"EPSG:{cell.epsg}", "left": cell.left, "top": cell.top, "sea_share": surface.attrs["sea_share"],
        "nodata_share": float(dem.isnull().mean()),
        "license": f"{request.imagery.license}; {request.elevation.license}",
    }
    return scene


def _in_block(
    origin: Source, block: Bounds, start: str | None = None, end: str | None = None, max_cloud: float | None = None
) -> tuple[pystac.Item, ...]:
    """The items that meet a block of one degree, whose tiles share the search: catalogs limit the rate of requests.

    A tile that comes while the search is on its way waits for it.
    """
    with _SEARCHING:
        return _search_block(origin, block, start, end, max_cloud)


_SEARCHING = Lock()  # one search at a time: most waiting threads want the same one


@lru_cache(maxsize=16)
def _search_block(
    origin: Source, block: Bounds, start: str | None, end: str | None, max_cloud: float | None
) -> tuple[pystac.Item, ...]:
    return tuple(search(origin, block, start, end, max_cloud))


def _clearest(items: Sequence[pystac.Item], most: int) -> list[pystac.Item]:
    """The items of the clearest looks, in their order; see :class:`sat2dem_core.dataset.catalogs.Request`.

    A look is what one satellite sees on one day. Looks of which no item states its cloud cover come last.
    """
    covers: dict[tuple, list[float]] = {}
    for item in items:
        cover = item.properties.get("eo:cloud_cover")
        covers.setdefault(_look(item), []).extend([cover] if isinstance(cover, int | float) else [])
    by_cover = sorted(covers, key=lambda look: np.mean(covers[look]) if covers[look] else np.inf)
    return [item for item in items if _look(item) in by_cover[:most]]


def _meets(item: pystac.Item, square: shapely.Polygon) -> bool:
    return shapely.intersects(_place(item), square)


def _look(item: pystac.Item) -> tuple[object, str]:
    """What the frames of one look share: satellite and day."""
    return item.properties.get("platform"), _day(item)


def _day(item: pystac.Item) -> str:
    return str(item.properties.get("datetime") or item.properties["start_datetime"])[:10]


def sun_of(item: pystac.Item) -> tuple[float, float]:
    """Azimuth and elevation of the sun in degrees, under either of the names that catalogs use."""
    stated = {name: value for name, value in item.properties.items() if isinstance(value, int | float)}
    azimuth = stated.get("view:sun_azimuth", stated.get("s2:mean_solar_azimuth", np.nan))
    return azimuth, stated.get("view:sun_elevation", 90 - stated.get("s2:mean_solar_zenith", np.nan))


@lru_cache(maxsize=1)
def _configure(settings: tuple) -> None:
    # rasterio warns of its own target array, to which it gives a geotransform only afterwards.
    warnings.filterwarnings("ignore", "Dataset has no geotransform", NotGeoreferencedWarning)
    odc.stac.configure_rio(cloud_defaults=True, **dict(settings))


def _read(item: pystac.Item, bands: Sequence[str], geobox: GeoBox, origin: Source) -> list[np.ndarray]:
    """An item's bands on a grid, each (y, x); tries again after a failure.

    Raises:
        Unreachable: a file cannot be read, after all tries.
        MissingAsset: the item states no coordinate reference system that exists.
    """
    _configure(tuple(HTTP.items()))
    is_elevation = not origin.mask
    settings = {
        "nodata": float("nan") if is_elevation else 0, "data_type": "float32" if is_elevation else "uint16",
    }
    for attempt, wait in enumerate(_waits()):
        try:
            with rasterio.Env(**(NO_CACHE if attempt else {})):
                loaded = odc.stac.load(
                    [item], bands, geobox=geobox, fail_on_error=True,
                    stac_cfg={item.collection_id: {"assets": {"*": settings}}},
                    resampling="bilinear" if is_elevation else {"*": "average", origin.mask: "nearest"},
                    patch_url=planetary_computer.sign if origin.signed else None,
                )
            return [loaded[band].values[0] for band in bands]
        except (ProjError, CRSError, ValueError, AssertionError) as error:  # odc-geo asserts that there is a CRS
            raise MissingAsset(
                f"{item.id} of {origin.collection} cannot be laid on a grid ({str(error) or 'a file states no place'})"
            ) from error
        except (RasterioError, OSError) as error:
            if wait is None:
                hrefs = ", ".join(item.assets[band].href for band in bands)
                raise Unreachable(
                    f"{item.id} of {origin.collection} cannot be read ({error}), after {ATTEMPTS} tries of {hrefs}: "
                    "try later, or leave it out with exclude"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try neither returned nor raised")


def _read_or_fault(
    item: pystac.Item, bands: Sequence[str], geobox: GeoBox, origin: Source
) -> list[np.ndarray] | MissingAsset:
    """As :func:`_read`, but with the fault of an item that cannot be used as the result."""
    try:
        return _read(item, bands, geobox, origin)
    except MissingAsset as error:
        return error


def _waits() -> Iterator[float | None]:
    """Seconds to wait after each failure; None after the last try."""
    yield from (0.5 * 2.0**attempt for attempt in range(ATTEMPTS - 1))
    yield None
