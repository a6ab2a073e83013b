"""The sun of an image: from metadata as missions write them, or from date, time and place."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat2dem_core.errors import InvalidConfig
from sat2dem_core.rasters.solar import stated_sun, sun_at

VALLEY = (-3.4, 40.1)


@pytest.fixture
def image(tmp_path, write_raster):
    """``image(tags, domain)``: an image with these metadata."""
    import rasterio

    def make(tags, domain=None):
        path = write_raster(tmp_path / "image.tif", np.ones((3, 40, 40), np.uint8))
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns=domain, **tags)
        return path

    return make


@pytest.mark.parametrize(("item", "name"), [
    ("landsat-c2l2-sr_item.json", "view:sun_azimuth"),
    ("sentinel-2-l2a_planetary-computer_item.json", "s2:mean_solar_azimuth"),
])
def test_the_sun_of_real_acquisitions_is_found_from_moment_and_place(shared, item, name):
    content = json.loads((shared / "data/stac" / item).read_text(encoding="utf-8"))
    west, south, east, north = content["bbox"]
    sun = sun_at(content["properties"]["datetime"], ((west + east) / 2, (south + north) / 2))
    assert sun.azimuth == pytest.approx(content["properties"][name], abs=1.5)
    assert sun.source == "the date and time"


def test_a_day_alone_means_the_usual_time_of_the_satellite():
    day, moment = sun_at("2023-07-01", (0.0, 45.0)), sun_at("2023-07-01T10:30", (0.0, 45.0))
    assert day.azimuth == moment.azimuth and day.source == "the date, at the usual time of day"
    east = sun_at("2023-07-01", (90.0, 45.0))  # the same time of day, six hours earlier
    assert east.azimuth == pytest.approx(day.azimuth, abs=1)


@given(st.floats(-180, 180), st.floats(-55, 55))
def test_in_the_morning_the_sun_stands_in_the_east(longitude, latitude):
    assert 0 <= sun_at("2023-03-21", (longitude, latitude)).azimuth <= 180


@pytest.mark.parametrize(("tags", "domain"), [
    ({"SUN_AZIMUTH": "158.4"}, None), ({"MEAN_SUN_AZIMUTH_ANGLE": "158.4"}, None),
    ({"LANDSAT_METADATA_FILE.IMAGE_ATTRIBUTES.SUN_AZIMUTH": "158.4"}, None),
    ({"MEAN_SOLAR_AZIMUTH": "158.4"}, "IMAGERY"),
    ({"SUN_AZIMUTH": "-201.6"}, None),
])
def test_the_azimuth_is_read_as_missions_write_it(image, tags, domain):
    sun = stated_sun(image(tags, domain))
    assert sun.azimuth == pytest.approx(158.4) and sun.source == "the image's metadata"


@pytest.mark.parametrize("tags", [
    {"SENSING_TIME": "2023-07-01T10:45:12.123456Z"},
    {"DATE_ACQUIRED": "2023-07-01", "SCENE_CENTER_TIME": '"10:45:12.1234567Z"'},
    {"ACQUISITIONDATETIME": "2023-07-01 10:45:12"},
])
def test_a_moment_in_the_metadata_is_used_with_the_place(image, tags):
    path = image(tags)
    sun = stated_sun(path, VALLEY)
    assert sun.azimuth == pytest.approx(sun_at("2023-07-01T10:45:12", VALLEY).azimuth, abs=0.1)
    assert sun.source == "the date in the image's metadata" and stated_sun(path) is None


@pytest.mark.parametrize("tags", [
    {}, {"SUN_AZIMUTH": "unknown"}, {"SUN_AZIMUTH": "nan"}, {"TIFFTAG_DATETIME": "2023:07:01 10:00:00"},
    {"DATE_ACQUIRED": "2023-07-01"}, {"SENSING_TIME": "soon"}, {"NOT_MY_SUN_AZIMUTHAL": "3"},
])
def test_what_the_metadata_do_not_tell_is_not_guessed(image, tags):
    assert stated_sun(image(tags), VALLEY) is None


@pytest.mark.parametrize(("moment", "words"), [
    ("yesterday", "'yesterday' is no date: write 2023-07-01, or"), ("2023-13-01", "is no date"),
    ("2023-07-01T23:30", "at 2023-07-01 23:30 UTC the sun is below the horizon at -3.40, 40.10"),
])
def test_a_moment_that_cannot_be_is_refused(moment, words):
    with pytest.raises(InvalidConfig, match=words):
        sun_at(moment, VALLEY)
