"""Imagery and elevation from open STAC catalogs: what was seen from a place in a period, as one cloudless picture.

Of every acquisition the clouds and their shadows are masked, digital numbers become surface reflectance, and each
pixel takes the median over the days it was seen clear: the paper's remedy against what a mask misses.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import odc.stac
import planetary_computer
import pystac
import requests
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Transformer
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from scipy.ndimage import binary_dilation, binary_erosion
from urllib3 import Retry

from sat2dem_core.dataset.catalogs import Request, Source
from sat2dem_core.dataset.grid import Bounds, Cell
from sat2dem_core.errors import EmptySearch, MissingAsset, Unreachable
from sat2dem_core.terrain import HIGHEST, LOWEST

ATTEMPTS = 4  # tries of a search or a file; the wait between them doubles
READERS = 8  # files read at once for one tile: reading is mostly waiting
# Seconds, and bytes a second below which a transfer counts as stalled.
HTTP = {
    "GDAL_HTTP_CONNECTTIMEOUT": 20, "GDAL_HTTP_TIMEOUT": 120, "GDAL_HTTP_LOW_SPEED_TIME": 30, "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
    "GDAL_HTTP_MAX_RETRY": 4, "GDAL_HTTP_RETRY_DELAY": 1, "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    # A file that failed once must be asked for again, not remembered as missing.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http", "AWS_NO_SIGN_REQUEST": "YES",
}

# Sentinel-2 scene classes that show ground: dark, vegetation, bare, water, unclassified, snow. Not: nodata,
# saturated, cloud shadow, clouds of medium and high probability, cirrus (SCL; ESA's Level-2A product definition).
SCL_CLEAR = (2, 4, 5, 6, 7, 11)
# Landsat QA_PIXEL bits that hide ground: fill, dilated cloud, cirrus, cloud, cloud shadow (USGS LSDS-1619).
QA_HIDDEN = 0b11111


def _sentinel_scaling(item: pystac.Item) -> tuple[float, float]:
    """Reflectance is (number - 1000) / 10000 from processing baseline 04.00 on, number / 10000 before.

    A catalog that has taken the 1000 off already says so, and it must not be taken off twice.
    """
    if item.properties.get("earthsearch:boa_offset_applied"):
        return 1e-4, 0.0
    baseline = item.properties.get("s2:processing_baseline") or item.properties.get("processing:version")
    if baseline is None:
        raise MissingAsset(
            f"{item.id} states no processing baseline, so whether its offset of 1000 is still in the numbers is not "
            "known: leave it out with exclude"
        )
    return 1e-4, -0.1 if float(baseline) >= 4 else 0.0


# What is clear in a mask, and (scale, offset) from numbers to reflectance.
SENSORS: dict[str, tuple[Callable, Callable]] = {
    "sentinel-2": (lambda mask: np.isin(mask, SCL_CLEAR), _sentinel_scaling),
    "landsat": (lambda mask: (mask & QA_HIDDEN) == 0, lambda item: (2.75e-5, -0.2)),  # Collection 2 Level-2 (USGS)
}


def search(
    origin: Source, bounds: Bounds, start: str | None = None, end: str | None = None, max_cloud: float | None = None
) -> list[pystac.Item]:
    """The items of a source that meet a box (west, south, east, north), sorted by time and id, each once.

    Raises:
        Unreachable: the catalog does not answer, or refuses, however often it is asked.
    """
    retry = Retry(total=ATTEMPTS, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None)
    query = {"query": {"eo:cloud_cover": {"lte": max_cloud}}} if max_cloud is not None else {}
    period = f"{start}/{end}" if start else None
    try:
        client = Client.open(origin.url, stac_io=StacApiIO(max_retries=retry, timeout=(20, 60)))
        items = client.search(collections=[origin.collection], bbox=bounds, datetime=period, limit=100, **query).items()
        found = {item.id: item for item in items}
    except (APIError, requests.RequestException) as error:
        raise Unreachable(f"{origin.url} does not answer a search of {origin.collection} ({error}): try later") from error
    taken = (item for item in found.values() if not origin.platforms or _platform(item) in origin.platforms)
    return sorted(taken, key=lambda item: (str(item.properties.get("datetime")), item.id))


def _platform(item: pystac.Item) -> str:
    return str(item.properties.get("platform", "")).upper().replace("-", "_")


def check(request: Request, bounds: Bounds) -> None:
    """Ask both catalogs whether there is anything at all for a region, before the work begins.

    Raises:
        EmptySearch: nothing; the message says which filter left nothing.
        Unreachable: see :func:`search`.
    """
    if not search(request.elevation, bounds):
        raise EmptySearch(f"{request.elevation.collection} has no elevation in {bounds}: the region lies at sea; move it to land")
    imagery = request.imagery
    if search(imagery, bounds, request.start, request.end, request.max_cloud):
        return
    where = f"{imagery.collection} at {imagery.url} has"
    cloudy = search(imagery, bounds, request.start, request.end)
    if cloudy:
        least = min(item.properties.get("eo:cloud_cover", 100) for item in cloudy)
        raise EmptySearch(
            f"{where} {len(cloudy)} acquisitions from {request.start} to {request.end}, none with at most "
            f"{request.max_cloud:g} % cloud (the clearest has {least:.0f} %): raise max_cloud or lengthen the period"
        )
    raise EmptySearch(f"{where} nothing from {request.start} to {request.end} in {bounds}: choose another period, sensor or catalog")


def composite(items: Sequence[pystac.Item], geobox: GeoBox, imagery: Source) -> xr.Dataset:
    """One cloudless picture: the per-pixel median over days of what was seen clear.

    Acquisitions of one day and satellite are one look: where their frames overlap, the first clear one counts. A ring
    of one pixel around what is masked goes with it, for averages reach over the edge. An item that lacks an asset is
    left out, with a warning.

    Args:
        items: acquisitions that meet the geobox; see :func:`search`.
        geobox: the pixels wanted. Bands are averaged down to them, masks take the nearest class.

    Returns:
        ``reflectance`` (band, y, x; float32, NaN where never seen clear); attributes: ``acquisitions``, ``dates``,
        ``cloud_share`` of what was looked at, and the median ``sun_azimuth`` and ``sun_elevation`` in degrees (NaN
        where the catalog is silent).

    Raises:
        Unreachable: a file cannot be read, however often it is asked for.
        MissingAsset: the offset of an item is not known.
    """
    needed = (*imagery.bands, imagery.mask)
    usable = [item for item in items if set(needed) <= set(item.assets)]
    for item in items:
        if missing := set(needed) - set(item.assets):
            warnings.warn(f"{item.id} has no asset {', '.join(sorted(missing))} and is left out", stacklevel=2)
    is_clear, scaling = SENSORS[imagery.sensor]
    looks: dict[tuple, np.ndarray] = {}
    seen, hidden, used = 0, 0, []
    with ThreadPoolExecutor(READERS) as pool:
        rasters = pool.map(lambda item: _read(item, needed, geobox, imagery), usable)
        for item, (*bands, mask) in zip(usable, rasters):
            numbers = np.stack(bands)  # (3, y, x)
            looked = (numbers > 0).all(0)
            if not looked.any():
                continue
            clear = looked & is_clear(mask)
            seen, hidden = seen + looked.sum(), hidden + (looked & ~clear).sum()
            clear = binary_erosion(clear, np.ones((3, 3)), border_value=1)
            used.append(item)
            scale, offset = scaling(item)
            reflectance = np.where(clear, numbers * np.float32(scale) + np.float32(offset), np.float32(np.nan))
            day = (item.properties.get("platform"), _day(item))
            looks[day] = reflectance if day not in looks else np.where(np.isnan(looks[day]), reflectance, looks[day])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pixel never seen clear has no median: NaN
        picture = np.nanmedian(np.stack(list(looks.values())), 0) if looks else np.full((3, *geobox.shape), np.nan)
        sun = np.nanmedian([_sun(item) for item in used], 0) if used else (np.nan, np.nan)
    dataset = xr.Dataset(
        {"reflectance": (("band", "y", "x"), picture.astype(np.float32))},
        coords={"band": ["red", "green", "blue"], **xr_coords(geobox)},
    )
    dataset.attrs.update(
        acquisitions=[item.id for item in used], dates=sorted({_day(item) for item in used}),
        cloud_share=float(hidden / seen) if seen else np.nan, sun_azimuth=float(sun[0]), sun_elevation=float(sun[1]),
    )
    return dataset


def elevation(items: Sequence[pystac.Item], geobox: GeoBox, origin: Source) -> xr.DataArray:
    """Surface elevation on a grid, float32 meters above the EGM2008 geoid.

    GLO-30 has no file over open sea: there the elevation is 0, and the attribute ``sea_share`` tells how much. Voids
    inside a file are NaN. Each file is interpolated on its own, so where two meet, half a pixel is extrapolated.

    Raises:
        Unreachable: see :func:`composite`.
        MissingAsset: an item states no bounding box.
    """
    rasters = [_read(item, origin.bands, geobox, origin)[0] for item in items]
    height = np.full(geobox.shape, np.nan, np.float32)
    for raster in rasters:
        # Interpolation mixes a void that the file does not declare into the pixels beside it.
        valid = ~np.isnan(raster) & ~binary_dilation((raster < LOWEST) | (raster > HIGHEST), np.ones((3, 3)))
        height = np.where(np.isnan(height) & valid, raster, height)
    y, x = (geobox.coords[axis].values for axis in geobox.dims)
    lon, lat = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
    covered = np.zeros(geobox.shape, bool)
    for item in items:
        if item.bbox is None:
            raise MissingAsset(f"{item.id} states no bounding box, so its voids cannot be told from open sea: use another catalog")
        west, south, east, north = item.bbox
        covered |= (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    sea = ~covered & np.isnan(height)
    height[sea] = 0
    attrs = {"units": "m", "long_name": "surface elevation above EGM2008", "sea_share": float(sea.mean())}
    return xr.DataArray(height, dims=("y", "x"), coords=xr_coords(geobox), attrs=attrs)


def to_uint8(reflectance: np.ndarray, stretch: tuple[float, float]) -> np.ndarray:
    """Reflectance as uint8: ``stretch`` goes linearly to 0 and 255, what lies outside is clipped, NaN becomes 0."""
    low, high = stretch
    return (np.nan_to_num((reflectance - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8)


def tile(cell: Cell, request: Request) -> xr.Dataset:
    """One tile of the grid: what :func:`pair` makes of all that the catalogs have for it.

    Raises:
        Unreachable, MissingAsset: see :func:`composite`.
    """
    square = shapely.box(*cell.footprint.bounds)
    west, south, east, north = square.bounds
    block = (np.floor(west), np.floor(south), np.floor(east) + 1, np.floor(north) + 1)
    looks = _in_block(request.imagery, block, request.start, request.end, request.max_cloud)
    wanted = [item for item in looks if item.id not in request.exclude and _meets(item, square)]
    return pair(cell, wanted, [item for item in _in_block(request.elevation, block) if _meets(item, square)], request)


def pair(cell: Cell, looks: Sequence[pystac.Item], heights: Sequence[pystac.Item], request: Request) -> xr.Dataset:
    """A tile from items at hand: ``rgb`` (band, y, x; uint8) and ``dem`` (y, x; float32 meters), as a scene has them.

    Where no clear image or no elevation is there is no pair: the elevation is NaN. Attributes: those of
    :func:`composite`, where the tile lies, ``sea_share``, ``nodata_share`` and ``license``.

    Raises:
        Unreachable, MissingAsset: see :func:`composite`.
    """
    picture = composite(looks, cell.geobox, request.imagery)
    surface = elevation(heights, cell.geobox, request.elevation)
    dem = surface.where(picture.reflectance.notnull().all("band"))
    rgb = to_uint8(picture.reflectance.values, request.stretch)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": dem}).assign_coords(picture.coords)
    scene.attrs = picture.attrs | {
        "crs": f"EPSG:{cell.epsg}", "left": cell.left, "top": cell.top, "sea_share": surface.attrs["sea_share"],
        "nodata_share": float(dem.isnull().mean()), "license": f"{request.imagery.license}; {request.elevation.license}",
    }
    return scene


@lru_cache(maxsize=16)
def _in_block(
    origin: Source, block: Bounds, start: str | None = None, end: str | None = None, max_cloud: float | None = None
) -> tuple[pystac.Item, ...]:
    # Tiles of one degree share a search, on every worker: catalogs limit how often they are asked.
    return tuple(search(origin, block, start, end, max_cloud))


def _meets(item: pystac.Item, square: shapely.Polygon) -> bool:
    return shapely.intersects(shapely.geometry.shape(item.geometry), square)


def _day(item: pystac.Item) -> str:
    return str(item.properties.get("datetime") or item.properties["start_datetime"])[:10]


def _sun(item: pystac.Item) -> tuple[float, float]:
    given = item.properties
    azimuth = given.get("view:sun_azimuth", given.get("s2:mean_solar_azimuth", np.nan))
    return azimuth, given.get("view:sun_elevation", 90 - given.get("s2:mean_solar_zenith", np.nan))


@lru_cache(maxsize=1)
def _configure(settings: tuple) -> None:
    # rasterio warns of the target array that it is about to give a geotransform.
    warnings.filterwarnings("ignore", "Dataset has no geotransform", NotGeoreferencedWarning)
    odc.stac.configure_rio(cloud_defaults=True, **dict(settings))


def _read(item: pystac.Item, bands: Sequence[str], geobox: GeoBox, origin: Source) -> list[np.ndarray]:
    """An item's bands on a grid, each (y, x), however often the server has to be asked."""
    _configure(tuple(HTTP.items()))
    elevations = not origin.mask
    settings = {"*": {"nodata": float("nan") if elevations else 0, "data_type": "float32" if elevations else "uint16"}}
    for wait in _waits():
        try:
            loaded = odc.stac.load(
                [item], bands, geobox=geobox, stac_cfg={item.collection_id: {"assets": settings}}, fail_on_error=True,
                resampling="bilinear" if elevations else {"*": "average", origin.mask: "nearest"},
                patch_url=planetary_computer.sign if origin.signed else None,
            )
            return [loaded[band].values[0] for band in bands]
        except (RasterioError, OSError) as error:
            if wait is None:
                hrefs = ", ".join(item.assets[band].href for band in bands)
                raise Unreachable(
                    f"{item.id} of {origin.collection} cannot be read ({error}), after {ATTEMPTS} tries of {hrefs}: try "
                    "later, or leave it out with exclude"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try neither read nor raised")


def _waits() -> Iterator[float | None]:
    """Seconds to wait after each failure; None after the last, for there is no further try."""
    yield from (0.5 * 2.0**attempt for attempt in range(ATTEMPTS - 1))
    yield None
