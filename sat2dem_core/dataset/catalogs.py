"""The open catalogs: how each names a product's files, and a request of what tiles are built from.

This room holds names and settings alone; :mod:`sat2dem_core.dataset.stac` reads the catalogs.
"""

from dataclasses import dataclass, replace
from datetime import date

from sat2dem_core.errors import InvalidRegion, choose


@dataclass(frozen=True)
class Source:
    """How one catalog offers one product.

    Attributes:
        url: address of the STAC API.
        collection: the product's name there.
        bands: names of the assets: red, green and blue, or the one of elevation.
        license: of the data.
        sensor: whose digital numbers these are, a name of :data:`sat2dem_core.dataset.stac.SENSORS`; empty for
            elevation.
        mask: name of the asset that marks clouds; empty for elevation.
        platforms: satellites to use; all where empty.
        signed: whether links must be signed by Planetary Computer's own package.
    """

    url: str
    collection: str
    bands: tuple[str, ...]
    license: str
    sensor: str = ""
    mask: str = ""
    platforms: tuple[str, ...] = ()
    signed: bool = False


_EARTH, _PLANETARY = "https://earth-search.aws.element84.com/v1", "https://planetarycomputer.microsoft.com/api/stac/v1"
_SENTINEL, _USGS = "Copernicus Sentinel data, free and open", "USGS Landsat, public domain"
_GLO30 = (
    "Copernicus DEM GLO-30, free with attribution (c) DLR e.V. 2010-2014, (c) Airbus Defence and Space GmbH 2014-2018"
)
_RGB, _LANDSAT_89 = ("red", "green", "blue"), ("LANDSAT_8", "LANDSAT_9")

ZENODO = "https://zenodo.org/api/records/14647632"  # the paper's data set, doi 10.5281/zenodo.14647632

# The first catalog of each product is its default. Earth Search keeps Landsat's files in a bucket that charges readers.
SOURCES: dict[str, dict[str, Source]] = {
    "sentinel-2": {
        "earth-search": Source(_EARTH, "sentinel-2-l2a", _RGB, _SENTINEL, "sentinel-2", "scl"),
        "planetary-computer": Source(
            _PLANETARY, "sentinel-2-l2a", ("B04", "B03", "B02"), _SENTINEL, "sentinel-2", "SCL", signed=True
        ),
    },
    "landsat": {
        "planetary-computer": Source(
            _PLANETARY, "landsat-c2-l2", _RGB, _USGS, "landsat", "qa_pixel", _LANDSAT_89, signed=True
        ),
        "earth-search": Source(_EARTH, "landsat-c2-l2", _RGB, _USGS, "landsat", "qa_pixel", _LANDSAT_89),
    },
    "glo-30": {
        "earth-search": Source(_EARTH, "cop-dem-glo-30", ("data",), _GLO30),
        "planetary-computer": Source(_PLANETARY, "cop-dem-glo-30", ("data",), _GLO30, signed=True),
    },
}


def source(product: str, catalog: str | None = None, url: str | None = None) -> Source:
    """A product in one of the catalogs.

    Args:
        product: ``sentinel-2``, ``landsat`` or ``glo-30``.
        catalog: ``earth-search`` or ``planetary-computer``; the product's default when not given.
        url: another address of the same catalog, such as a mirror.

    Raises:
        UnknownName: no such product or catalog; the message lists the valid ones.
    """
    catalogs = SOURCES[choose("product", product, SOURCES)]
    chosen = catalogs[choose("catalog", catalog or next(iter(catalogs)), catalogs)]
    return replace(chosen, url=url, signed=False) if url else chosen


@dataclass(frozen=True)
class Request:
    """What to build tiles from.

    Attributes:
        start, end: the first and the last day, written as ``2023-05-01``.
        imagery, elevation: see :func:`source`.
        max_cloud: largest cloud cover of a whole acquisition, percent, as the catalog states it.
        stretch: reflectances that become 0 and 255; values between are mapped linearly, values outside clipped.
        exclude: ids of acquisitions to leave out.
        most_looks: looks to read for a tile, the clearest by the catalog's cloud cover of the whole acquisitions; a
            look is what one satellite sees on one day.
    """

    start: str
    end: str
    imagery: Source = SOURCES["sentinel-2"]["earth-search"]
    elevation: Source = SOURCES["glo-30"]["earth-search"]
    max_cloud: float = 60.0
    stretch: tuple[float, float] = (0.0, 0.3)
    exclude: tuple[str, ...] = ()
    most_looks: int = 30

    def __post_init__(self) -> None:
        try:
            start, end = date.fromisoformat(self.start), date.fromisoformat(self.end)
        except ValueError as error:
            raise InvalidRegion(
                f"the period {self.start} to {self.end} is no pair of days: write 2023-05-01"
            ) from error
        if start > end:
            raise InvalidRegion(f"the period from {self.start} to {self.end} is reversed: give the earlier day first")
        if self.most_looks < 1:
            raise InvalidRegion(f"most_looks is {self.most_looks}, and a tile needs a look: give 1 or more")
