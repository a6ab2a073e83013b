"""When an image was taken and where the sun stood: from the file's metadata, or from date, time and place."""

import math
import os
import re
from datetime import date, datetime, time, timedelta, UTC
from typing import NamedTuple

from astral import Observer
from astral.sun import azimuth, elevation

from sat2dem_core.errors import InvalidConfig
from sat2dem_core.rasters.reader import opened

OVERPASS = time(10, 30)  # mean local solar time at which Sentinel-2 passes; Landsat passes 10 to 20 minutes earlier
AZIMUTH = re.compile(r"(?:^|[^a-z])(?:mean_)?(?:sun|solar)_azimuth(?:_angle)?$", re.I)  # as in Landsat's MTL, HLS, STAC
MOMENT = re.compile(r"(?:^|[^a-z])(?:acquisition_?datetime|sensing_time|product_start_time|datetime)$", re.I)
DAY, HOUR = re.compile(r"(?:^|[^a-z])date_acquired$", re.I), re.compile(r"(?:^|[^a-z])scene_center_time$", re.I)
GDAL_OWN = re.compile(r"^TIFFTAG_", re.I)  # when a file was written, which says nothing of the sun


class Taken(NamedTuple):
    """When an image was taken.

    Attributes:
        moment: in UTC; midnight where only the day is known.
        day_only: whether only the day is known.
    """

    moment: datetime
    day_only: bool


class Sun(NamedTuple):
    """The sun of an image.

    Attributes:
        azimuth: degrees clockwise from true north.
        source: where it is known from, in words.
    """

    azimuth: float
    source: str


def find_sun(
    path: str | os.PathLike, place: tuple[float, float] | None, azimuth: float | None = None, date: str | None = None
) -> Sun:
    """The sun of an image: as given; from a date; from the image's metadata; or else that of a morning.

    Args:
        place: longitude and latitude of the image, degrees; None if unknown.
        azimuth: degrees clockwise from true north.
        date: see :func:`sun_at`.

    Raises:
        InvalidConfig: the azimuth is not finite; the date is none, or the image's place is unknown.
    """
    if azimuth is not None:
        if not math.isfinite(azimuth):
            raise InvalidConfig(f"sun is {azimuth}: give its azimuth in degrees clockwise from north, such as 135")
        return Sun(azimuth % 360, "given")
    if date is not None:
        if place is None:
            raise InvalidConfig(f"{path} does not say where it lies, so a date does not tell the sun: give its azimuth")
        return sun_at(date, place)
    # In the morning, when satellites pass: south-east on the northern hemisphere, north-east on the southern.
    return stated_sun(path, place) or Sun(45.0 if place and place[1] < 0 else 135.0, "assumed, a morning's")


def stated_sun(path: str | os.PathLike, place: tuple[float, float] | None = None) -> Sun | None:
    """The sun as a file's metadata tell it: its azimuth, or else the moment of a place; None if they do not.

    Args:
        place: longitude and latitude of the image, degrees.
    """
    tags = _tags(path)
    for name, text in tags.items():
        if AZIMUTH.search(name) and (angle := _number(text)) is not None:
            return Sun(angle % 360, "the image's metadata")
    if place is None:
        return None
    for text in _moments(tags):
        try:
            return sun_at(text, place)._replace(source="the date in the image's metadata")
        except InvalidConfig:
            continue
    return None


def sun_at(moment: str, place: tuple[float, float]) -> Sun:
    """The sun over a place, degrees of longitude and latitude.

    Args:
        moment: a day, ``2023-07-01``, on which a satellite passes at ``OVERPASS``; or a day and a time in UTC,
            ``2023-07-01T10:30``.

    Raises:
        InvalidConfig: it is neither, or the sun is below the horizon then.
    """
    longitude, latitude = place
    when, assumed = _moment(moment, longitude)
    observer = Observer(latitude=latitude, longitude=longitude)
    if elevation(observer, when) <= 0:
        raise InvalidConfig(
            f"at {when:%Y-%m-%d %H:%M} UTC the sun is below the horizon at {longitude:.2f}, {latitude:.2f} (longitude, "
            "latitude): check date and time, which counts in UTC"
        )
    return Sun(azimuth(observer, when), "the date, at the usual time of day" if assumed else "the date and time")


def taken(path: str | os.PathLike, date: str | None = None) -> Taken | None:
    """When an image was taken, as given or as its metadata tell it; None if they do not.

    Args:
        date: a day, ``2023-07-01``, or a day and a time in UTC, ``2023-07-01T10:30``.

    Raises:
        InvalidConfig: the date is neither.
    """
    if date is not None:
        return _read(date)
    tags = _tags(path)
    for text in _moments(tags) + _first(tags, DAY):
        try:
            return _read(text)
        except InvalidConfig:
            continue
    return None


def _moments(tags: dict[str, str]) -> list[str]:
    """The moments that metadata state."""
    moments = [text for name, text in tags.items() if MOMENT.search(name)]
    return moments + [f"{day}T{hour}" for day in _first(tags, DAY) for hour in _first(tags, HOUR)]


def _moment(text: str, longitude: float) -> tuple[datetime, bool]:
    """A moment in UTC, and whether its time of day is assumed."""
    when, day_only = _read(text)
    if day_only:
        when = datetime.combine(when.date(), OVERPASS, UTC) - timedelta(hours=longitude / 15)
    return when, day_only


def _read(text: str) -> Taken:
    text = text.strip()
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", text):
            return Taken(datetime.combine(date.fromisoformat(text), time(), UTC), True)
        clean = re.sub(r"(\.\d{6})\d+", r"\1", text.strip('"'))  # Landsat states tenths of microseconds
        when = datetime.fromisoformat(clean)
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is no date: write 2023-07-01, or 2023-07-01T10:30 in UTC") from error
    return Taken((when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC), False)


def _tags(path: str | os.PathLike) -> dict[str, str]:
    """A file's metadata of all domains."""
    with opened(path) as file:
        tags: dict[str, str] = {}
        for domain in (None, *file.tag_namespaces()):
            tags |= {name: str(text) for name, text in file.tags(ns=domain).items() if not GDAL_OWN.match(name)}
    return tags


def _first(tags: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [text.strip('"') for name, text in tags.items() if pattern.search(name)][:1]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
