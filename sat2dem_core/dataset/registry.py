"""The registry of scenes: what each is, where it comes from and how its pair is made; ``data/scenes.toml`` holds it.

Three kinds of scenes differ in where their files come from. *Embedded* ones lie in the package. *Open* ones are fetched
from public repositories, each file at a fixed commit, with its checksum. *Development* ones were put together from
several files or reconstructed: they open where their files lie already, and cannot be fetched.
"""

import datetime
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sat2dem_core.errors import choose
from sat2dem_core.paths import data_file, data_folder, downloads

if TYPE_CHECKING:
    import pandas as pd

RAW = "https://raw.githubusercontent.com"  # GitHub's files as they are: /<repository>/<commit>/<path>


@dataclass(frozen=True)
class Original:
    """A file that a scene is made of.

    Attributes:
        role: ``red``, ``green`` or ``blue``; ``image`` for all three; ``dem``; anything else is not used.
        path: in its repository.
        bytes: its size.
        repository, commit: where it lies on GitHub.
    """

    role: str
    path: str
    bytes: int
    sha256: str
    repository: str
    commit: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def url(self, address: str = RAW) -> str:
        """Where it is fetched from; ``address`` may be a mirror."""
        return f"{address}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class Recipe:
    """How a pair is made of its original files; :func:`sat2dem_core.dataset.originals.make_pair` follows it.

    Attributes:
        bands: numbers of red, green and blue in an image of several bands.
        scale: factor for the image's values, such as 10000 for reflectance.
        round: the image's values become multiples of this; values above 0 stay above 0, since 0 means nodata.
        window: column, row, width and height of the part of the image that is kept; None for all.
        dem_crs: coordinate reference system to read the DEM in, instead of the one that it states.
        dem_resampling: how the DEM comes onto the image's grid; None if it lies on that already.
        dem_decimals: to which the elevation is rounded; None leaves it as it is.
    """

    bands: tuple[int, ...] | None = None
    scale: float = 1.0
    round: int = 1
    window: tuple[int, int, int, int] | None = None
    dem_crs: str | None = None
    dem_resampling: str | None = None
    dem_decimals: int | None = None


@dataclass(frozen=True)
class Site:
    """One scene of the registry.

    Attributes:
        kind: ``embedded``, ``open`` or ``development``.
        title: the place in words.
        region: scenes of one region have similar terrain and climate: leave a whole region out to test.
        fold: the group of regions, from 1 on, that the benchmark leaves out together.
        sensor: of the image.
        pixel, dem_pixel: size of the image's pixels, and of those of the source of the elevation, meters.
        width, height: of the pair, px.
        elevation: lowest and highest point, meters.
        worth: A (a good pair), B (with a caveat) or C (coarse, or with many faults).
        terms: license, and whose.
        origin: where the files come from, in words.
        place: longitude and latitude of the middle, degrees; None if the coordinates are made up.
        date: of the image; None if unknown.
        sun_azimuth: degrees clockwise from north; None if unknown.
        sun_source: ``metadata``; ``regression``, of brightness on the terrain's gradient; or ``time of day``, at which
            the satellite passes.
        shading_azimuth, shading_r: direction in which the brightness follows the terrain's gradient best, and the
            correlation that it reaches there; None if not measured, or if the direction says nothing.
        caveat: what to know before using it.
        stretch: values of the image that become 0 and 255: for 16-bit images about the 2nd and 98th percentile, which
            ``predict`` would take, too; None for uint8.
        folder: of its files, in the folder for downloads; by default ``scenes/<name>``.
        image, dem: names of its files.
        image_nodata: as in :func:`sat2dem_core.dataset.scenes.open_pair`.
        originals: the files that an open scene is made of.
        recipe: how; None if the original files are opened as they are.
        pixels: SHA-256 of the made image, (3, H, W) little-endian; empty if nothing is made.
    """

    name: str
    kind: Literal["embedded", "open", "development"]
    title: str
    region: str
    fold: int
    sensor: str
    pixel: float
    dem_pixel: float
    width: int
    height: int
    elevation: tuple[float, float]
    worth: str
    terms: str
    origin: str
    place: tuple[float, float] | None = None
    date: datetime.date | None = None
    sun_azimuth: float | None = None
    sun_source: str = ""
    shading_azimuth: float | None = None
    shading_r: float | None = None
    caveat: str = ""
    stretch: tuple[float, float] | None = None
    folder: str = ""
    image: tuple[str, ...] = ("rgb.tif",)
    dem: str = "dem.tif"
    image_nodata: str | None = "declared"
    originals: tuple[Original, ...] = field(default=(), repr=False)
    recipe: Recipe | None = None
    pixels: str = ""

    @property
    def home(self) -> Path:
        """The folder that its files lie in, or will lie in."""
        if self.kind == "embedded":
            return data_folder(self.name)
        return downloads(self.folder or f"scenes/{self.name}")

    @property
    def here(self) -> bool:
        """Whether its files are on this computer."""
        return all((self.home / name).is_file() for name in (*self.image, self.dem))

    def attributes(self) -> dict[str, Any]:
        """What is known of it, as attributes of its Dataset: region, sensor, place, date and sun."""
        known = {
            "region": self.region, "sensor": self.sensor, "place": self.place and list(self.place),
            "date": self.date and self.date.isoformat(), "sun_azimuth": self.sun_azimuth,
            "sun_source": self.sun_source or None,
        }
        return {name: value for name, value in known.items() if value is not None}


@cache
def read_registry(path: Path | None = None) -> dict[str, Site]:
    """All scenes by name.

    Args:
        path: a file of the form of ``data/scenes.toml``, which is the default.
    """
    path = path or data_file("scenes.toml")
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _site(name, entry) for name, entry in entries.items()}


def find_site(name: str) -> Site:
    """A scene of the registry.

    Raises:
        UnknownName: no such scene; the message lists the valid ones.
    """
    registry = read_registry()
    return registry[choose("scene", name, registry)]


def sites() -> "pd.DataFrame":
    """The registry as a table, with a row for each scene by its name.

    Columns are the facts of :class:`Site`, with ``longitude`` and ``latitude`` in place of ``place``, ``lowest`` and
    ``highest`` in place of ``elevation``, and ``here``: whether the scene's files are on this computer.

    >>> sites().loc["zion", ["region", "sensor", "kind"]].to_list()
    ['utah', 'Landsat 8 OLI', 'open']
    """
    import pandas as pd

    rows = {}
    for name, site in read_registry().items():
        facts = {key: getattr(site, key) for key in (
            "title", "region", "fold", "kind", "sensor", "date", "pixel", "dem_pixel", "width", "height", "sun_azimuth",
            "sun_source", "shading_azimuth", "shading_r", "worth", "caveat", "terms", "origin", "here",
        )}
        longitude, latitude = site.place or (None, None)
        lowest, highest = site.elevation
        rows[name] = facts | {"longitude": longitude, "latitude": latitude, "lowest": lowest, "highest": highest}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def markdown_table() -> str:
    """The registry as the table of ``data/README.md``."""
    lines = [
        "| scene | place | region | sensor, day | px | pixel, m | DEM, m | elevation, m | sun | shading | worth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for site in read_registry().values():
        day = f", {site.date}" if site.date else ""
        sun = "–" if site.sun_azimuth is None else f"{site.sun_azimuth:g}°, {site.sun_source}"
        shading = "–" if site.shading_r is None else f"{site.shading_r:.2f}"
        cells = [
            f"`{site.name}` ({site.kind})", site.title, site.region, site.sensor + day, f"{site.width} × {site.height}",
            f"{site.pixel:g}", f"{site.dem_pixel:g}", "{:.0f} to {:.0f}".format(*site.elevation), sun, shading,
            site.worth + (f": {site.caveat}" if site.caveat else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _site(name: str, entry: dict[str, Any]) -> Site:
    entry = dict(entry)
    where = {"repository": entry.pop("repository", ""), "commit": entry.pop("commit", "")}
    originals = tuple(Original(**(where | file)) for file in entry.pop("files", ()))
    recipe = entry.pop("recipe", None)
    if entry.get("image_nodata") == "none":
        entry["image_nodata"] = None
    made = None if recipe is None else Recipe(**_with_tuples(recipe))
    return Site(name=name, originals=originals, recipe=made, **_with_tuples(entry))


def _with_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
