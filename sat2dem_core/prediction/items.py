"""The image of a STAC item: red, green and blue, which lie in three files or in one, behind one path.

The path is that of a virtual raster (GDAL's VRT), a small text in the cache that names the item's files and holds the
date and the sun's azimuth. Whatever reads an image reads it, also after an interruption and on another computer.
"""

import hashlib
import json
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlparse
from xml.etree import ElementTree as xml

from rasterio.io import DatasetReader

from sat2dem_core.dataset.catalogs import SOURCES
from sat2dem_core.errors import (
    InvalidItem, MissingAsset, Sat2DEMError, UnreadableRaster, UnsupportedImagery, needs,
)
from sat2dem_core.paths import cache_folder
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.download import ask
from sat2dem_core.rasters.grids import Grid
from sat2dem_core.rasters.reader import opened, own_grid

if TYPE_CHECKING:
    import pystac

COLORS = ("red", "green", "blue")
# Names of assets: in the catalogs that data sets are built from, red, green and blue each.
KEYS = {origin.bands for catalogs in SOURCES.values() for origin in catalogs.values() if origin.sensor}
COLOR_OF = {key: color for keys in KEYS for color, key in zip(COLORS, keys)}
DISPLAY = "visual"  # an asset of three bands made for the eye, uint8
PREVIEWS = {"thumbnail", "overview"}  # roles, and names
SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
# Whose numbers become reflectance, by collection, id and platform; names of sat2dem_core.dataset.stac.SENSORS.
PRODUCTS = {
    "sentinel-2": re.compile(r"(sentinel-?s?2|\bs2[abc]_).*l2a"), "landsat": re.compile(r"landsat-c2-?l2|_l2s[pr]_"),
}
GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}
PLANETARY, BLOBS = "planetarycomputer.microsoft.com", ".blob.core.windows.net"
CLOUDY = 20  # percent of an acquisition


@dataclass(frozen=True)
class ItemImage(os.PathLike[str]):
    """The image of a STAC item: a path, for all that takes the path of an image.

    Attributes:
        path: of the virtual raster.
        id: of the item; messages and tags call the image so.
        link: the item's own address, or the path of its file.
        taken: the item's ``datetime``, ``start_datetime`` and ``end_datetime``, as far as it has them.
        files: that the pixels lie in, as GDAL opens them.
    """

    path: Path
    id: str
    link: str
    taken: dict[str, str | None]
    files: tuple[str, ...]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return self.id


def name_of(image: str | os.PathLike) -> str:
    """What tags call an image: an item's id, or the name of a file."""
    return image.id if isinstance(image, ItemImage) else re.split(r"[/\\]", os.fspath(image))[-1]


def files_of(image: str | os.PathLike) -> list[str | os.PathLike]:
    """The files that an image is read from, which nothing must overwrite."""
    return [image, *image.files] if isinstance(image, ItemImage) else [image]


class _Band(NamedTuple):
    """One color of an item: name of the asset, number of the band in it, and whether the asset is made for the eye."""

    key: str
    number: int
    display: bool


def open_item(source: str | os.PathLike) -> ItemImage:
    """The image that a STAC item describes, for :func:`sat2dem_core.predict` and all else that takes an image's path.

    The bands are found by their descriptions (``eo:bands``, ``bands``), or by the names that Earth Search and
    Planetary Computer give to assets; an item without red, green and blue is shown in its asset ``visual``. Numbers
    become reflectance where the item tells how, as in data sets that are built from catalogs: see
    :data:`sat2dem_core.dataset.stac.SENSORS`. GDAL signs the addresses of Planetary Computer whenever it needs to. On a
    cluster, ``SAT2DEM_CACHE`` must name a folder that every worker reads.

    Args:
        source: address (http, https) or file of the item.

    Raises:
        InvalidItem: there is no such file, or it holds no STAC item.
        Unreachable: the server refuses, or fails five times.
        MissingAsset: the item has no red, green and blue.
        UnreadableRaster: an asset cannot be read.
        UnsupportedImagery: red, green and blue have different pixels.
        MissingExtra: the extra ``catalogs`` is not installed.
    """
    with needs("catalogs"):
        import pystac

        from sat2dem_core.dataset.stac import sun_of

    content, location = _read(source)
    kind = content.get("type") if isinstance(content, dict) else type(content).__name__
    if kind != "Feature":
        raise InvalidItem(f"{source} is no STAC item but a {kind}: give the address or the file of one item")
    try:
        item = pystac.Item.from_dict(content, href=location)
    except (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidItem(
            f"{source} is no STAC item that can be read ({error!r}): give the address or the file of one item"
        ) from error
    bands = _find_bands(item)
    _warn_of_clouds(item)
    taken = {name: item.properties.get(name) for name in ("datetime", "start_datetime", "end_datetime")}
    azimuth = sun_of(item)[0]
    facts = {
        "item": item.id, "datetime": taken["datetime"] or taken["start_datetime"],
        "sun_azimuth": None if math.isnan(azimuth) else f"{azimuth:.6g}",
    }
    text, files = _virtual_raster(item, bands, facts)
    stated = next((link.get("href") for link in content.get("links", []) if link.get("rel") == "self"), None)
    return ItemImage(_kept(item.id, text), item.id, stated or location, taken, files)


def _read(source: str | os.PathLike) -> tuple[Any, str]:
    """What a file or an address holds as JSON, and the absolute address."""
    text = os.fspath(source)
    if urlparse(text).scheme in ("http", "https"):
        location, content = text, ask(text).text
    else:
        path = Path(re.sub("^file://", "", text)).absolute()
        try:
            location, content = path.as_posix(), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise InvalidItem(f"{source} cannot be read as a STAC item ({reason}): check the path") from error
    try:
        return json.loads(content), location
    except ValueError as error:
        raise InvalidItem(f"{source} is no STAC item, for it is no JSON ({error}): check the address") from error


# Bands


def _find_bands(item: "pystac.Item") -> list[_Band]:
    """Red, green and blue of an item."""
    names = {key: _names(asset) for key, asset in item.assets.items() if _is_image(key, asset)}
    chosen = []
    for color in COLORS:
        alone = [key for key, found in names.items() if found == [color] or (len(found) < 2 and _is_key_of(key, color))]
        chosen += [_Band(min(alone, key=lambda key: _rank(key, item.assets[key])), 1, False)] if alone else []
    if len(chosen) == len(COLORS):
        return chosen
    together = [key for key, found in names.items() if set(COLORS) <= set(found)]
    if together:
        key = min(together, key=lambda key: (key == DISPLAY, _rank(key, item.assets[key])))
        return [_Band(key, names[key].index(color) + 1, True) for color in COLORS]
    if DISPLAY in names:
        return [_Band(DISPLAY, number, True) for number in (1, 2, 3)]
    listed = ", ".join(item.assets) or "none"
    raise MissingAsset(
        f"{item.id} has no red, green and blue, and no asset {DISPLAY!r} (its assets: {listed}): give an item of "
        "optical imagery"
    )


def _is_key_of(key: str, color: str) -> bool:
    return COLOR_OF.get(key) == color


def _names(asset: "pystac.Asset") -> list[str]:
    """The common names of an asset's bands, or else their names, in lower case."""
    described = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or []
    names = (band.get("eo:common_name") or band.get("common_name") or band.get("name") or "" for band in described)
    return [str(name).lower() for name in names]


def _is_image(key: str, asset: "pystac.Asset") -> bool:
    """Whether an asset is a raster with the pixels of the product."""
    if PREVIEWS & {key, *(asset.roles or [])}:
        return False
    kind = (asset.media_type or "").lower()
    if kind.startswith("image/"):
        return not re.match("image/(png|jpeg|webp)", kind)
    return urlparse(asset.href).path.lower().endswith(SUFFIXES)


def _rank(key: str, asset: "pystac.Asset") -> tuple[bool, bool, float]:
    """The lowest is the best of several assets of one color: under a known name, a GeoTIFF, of the finest pixels."""
    is_tiff = "tiff" in (asset.media_type or asset.href).lower()
    size = asset.extra_fields.get("gsd") or next(iter(_data_values(asset, 1, "spatial_resolution")), None)
    return key not in COLOR_OF, not is_tiff, float(size or 0)


def _data_values(asset: "pystac.Asset", number: int, *names: str) -> list[Any]:
    """What an item states of a band: of the raster extension, version 1 or 2, or of STAC 1.1 itself; None if nothing.

    Args:
        number: of the band, from 1.
        names: such as ``nodata`` or ``scale``.
    """
    bands = [asset.extra_fields.get(group) or [] for group in ("bands", "raster:bands")]
    stated: dict[str, Any] = dict(asset.extra_fields)
    for group in bands:
        stated |= group[number - 1] if len(group) >= number else {}
    return [stated.get(name, stated.get(f"raster:{name}")) for name in names]


def _warn_of_clouds(item: "pystac.Item") -> None:
    cover = item.properties.get("eo:cloud_cover")
    if isinstance(cover, int | float) and cover > CLOUDY:
        warnings.warn(
            f"clouds cover {cover:.0f} % of {item.id}, and what is predicted under them is no terrain: give a clearer "
            "acquisition", stacklevel=3,
        )


# Virtual raster


@dataclass(frozen=True)
class _File:
    """An asset's file: where it lies, its pixels, and the type, nodata value and blocks of a band."""

    address: str
    grid: Grid
    dtype: str
    nodata: float | None
    blocks: tuple[int, int]


def _virtual_raster(
    item: "pystac.Item", bands: list[_Band], facts: dict[str, str | None]
) -> tuple[str, tuple[str, ...]]:
    """The text of a virtual raster of three bands, and the files that it names."""
    files = [_examine(item, band) for band in bands]
    first = files[0]
    for band, file in zip(bands, files):
        if file.grid.shape != first.grid.shape or file.grid.offset(first.grid) != (0, 0):
            raise UnsupportedImagery(
                f"{item.id}: the assets {bands[0].key} and {band.key} have different pixels: lay red, green and blue "
                "on one grid first"
            )
    root = xml.Element("VRTDataset", rasterXSize=str(first.grid.width), rasterYSize=str(first.grid.height))
    _add(root, "SRS", first.grid.crs or "")
    a, b, c, d, e, f = first.grid.transform
    _add(root, "GeoTransform", ", ".join(map(repr, (c, a, b, f, d, e))))
    metadata = xml.SubElement(root, "Metadata")
    for name, value in facts.items():
        if value is not None:
            _add(metadata, "MDI", value, key=name)
    scales = [_scaling(item, band, file.dtype) for band, file in zip(bands, files)]
    dtypes = {file.dtype for file in files}
    dtype = "Float32" if any(scales) or len(dtypes) > 1 else GDAL_TYPES[first.dtype]
    for number, (color, band, file, scale) in enumerate(zip(COLORS, bands, files, scales), 1):
        _add_band(root, number, color, band, file, scale, dtype)
    return xml.tostring(root, encoding="unicode"), tuple(dict.fromkeys(file.address for file in files))


def _add(parent: xml.Element, tag: str, text: str, **attributes: str) -> None:
    xml.SubElement(parent, tag, attributes).text = text


def _add_band(
    root: xml.Element, number: int, color: str, band: _Band, file: _File, scale: tuple[float, float] | None, dtype: str
) -> None:
    """A band of a virtual raster: the numbers of a file, or reflectance, which is NaN where there is no data."""
    out = xml.SubElement(root, "VRTRasterBand", dataType=dtype, band=str(number))
    _add(out, "Description", color)
    blank = "nan" if scale else None if file.nodata is None else repr(file.nodata)
    if blank is not None:
        _add(out, "NoDataValue", blank)
    _add(out, "ColorInterp", color.capitalize())
    source = xml.SubElement(out, "ComplexSource" if scale else "SimpleSource")
    _add(source, "SourceFilename", file.address, relativeToVRT="0")
    _add(source, "SourceBand", str(band.number))
    # With these, GDAL opens a file only when its pixels are read.
    properties = {
        "RasterXSize": file.grid.width, "RasterYSize": file.grid.height, "DataType": GDAL_TYPES[file.dtype],
        "BlockXSize": file.blocks[1], "BlockYSize": file.blocks[0],
    }
    xml.SubElement(source, "SourceProperties", {name: str(value) for name, value in properties.items()})
    if scale:
        _add(source, "ScaleOffset", repr(scale[1]))
        _add(source, "ScaleRatio", repr(scale[0]))
        if file.nodata is not None:
            _add(source, "NODATA", repr(file.nodata))


def _examine(item: "pystac.Item", band: _Band) -> _File:
    """Open the file of a band.

    Raises:
        UnreadableRaster: it cannot be read, or has no such band.
    """
    asset = item.assets[band.key]
    href = asset.get_absolute_href() or asset.href
    address = _address(href, _is_signed(item, href))
    try:
        with opened(address) as file:
            if file.count < band.number:
                raise UnreadableRaster(f"it has {file.count} band(s)")
            blank = 0 if _sensor(item, band, file.dtypes[band.number - 1]) else None
            return _described(file, band, address, _data_values(asset, band.number, "nodata")[0], blank)
    except Sat2DEMError as error:
        reason = error.__cause__ or error
        raise UnreadableRaster(
            f"{item.id}: the asset {band.key} cannot be read from {href} ({reason}): check the item, and whether its "
            "files can be had without an account"
        ) from error


def _described(file: DatasetReader, band: _Band, address: str, stated: Any, usual: float | None) -> _File:
    """A band as the file, or else the item, or else what is usual for the product, describes it."""
    dtype, nodata = file.dtypes[band.number - 1], file.nodatavals[band.number - 1]
    if dtype not in GDAL_TYPES:
        raise UnsupportedImagery(f"its numbers are {dtype}")
    if nodata is None:
        nodata = float(stated) if isinstance(stated, int | float) else usual
    return _File(address, own_grid(file), dtype, nodata, file.block_shapes[band.number - 1])


def _is_signed(item: "pystac.Item", href: str) -> bool:
    """Whether a file is one of Planetary Computer's that lacks its signature."""
    hosts = {urlparse(link.get_absolute_href() or "").netloc for link in item.links}
    parts = urlparse(href)
    return PLANETARY in hosts and parts.netloc.endswith(BLOBS) and "sig=" not in parts.query


def _address(href: str, signed: bool = False) -> str:
    """The name of an asset's file for GDAL, in any folder.

    >>> _address("https://a.org/b.tif"), _address("s3://bucket/b.tif")
    ('/vsicurl/https://a.org/b.tif', '/vsis3/bucket/b.tif')
    """
    if signed:
        # GDAL asks for a signature, and again when it has expired: a prediction can take longer than one is valid.
        return f"/vsicurl?pc_url_signing=yes&url={quote(href, safe='')}"
    if re.match("https?://", href):
        return f"/vsicurl/{href}"
    for scheme, folder in {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}.items():
        if href.startswith(f"{scheme}://"):
            return folder + href.partition("://")[2]
    return href if href.startswith("/vsi") else str(Path(re.sub("^file://", "", href)).absolute())


def _scaling(item: "pystac.Item", band: _Band, dtype: str) -> tuple[float, float] | None:
    """Scale and offset from a band's numbers to reflectance; None where the numbers stay as they are.

    What is known of a product goes before what the item states: Earth Search states an offset that it has applied.
    """
    from sat2dem_core.dataset.stac import SENSORS

    if sensor := _sensor(item, band, dtype):
        try:
            return SENSORS[sensor][1](item)
        except MissingAsset:
            return None  # the processing baseline is unknown; a stretch between percentiles does not need it
    scale, offset = _data_values(item.assets[band.key], band.number, "scale", "offset")
    stated = float(1 if scale is None else scale), float(offset or 0)
    return None if stated == (1.0, 0.0) else stated


def _sensor(item: "pystac.Item", band: _Band, dtype: str) -> str | None:
    """The sensor whose reflectance a band holds as numbers that are known, with 0 for no data; None for others."""
    text = f"{item.collection_id} {item.id} {item.properties.get('platform')}".lower()
    sensor = next((name for name, pattern in PRODUCTS.items() if pattern.search(text)), None)
    return None if band.display or dtype == "uint8" else sensor


def _kept(name: str, text: str) -> Path:
    """The file in the cache that holds a virtual raster, written unless it is there: its time tells versions apart."""
    folder = cache_folder() / "items" / hashlib.sha256(text.encode()).hexdigest()[:12]
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)[:100]}.vrt"
    if not path.is_file():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path
