"""The STAC item beside a DEM: valid, true to the files, in the right place on Earth, and written with the rest."""

import json
from copy import deepcopy

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pyproj import CRS, Geod, Transformer
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

from sat2dem_core.cli import main
from sat2dem_core.errors import InvalidConfig, OutputExists
from sat2dem_core.prediction.dem_items import Description, _bbox, _projection, footprint
from sat2dem_core.rasters.grids import Grid, utm_epsg

DAY = "2020-07-01"
ITEM = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"


def faults(item: dict) -> list[str]:
    """What the schemas of STAC that pystac brings find wrong with an item; extensions' schemas lie on the network."""
    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(name, Resource.from_contents(schema)) for name, schema in schemas.items()])
    return [error.message for error in Draft7Validator(schemas[ITEM], registry=registry).iter_errors(item)]


def load(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_item_is_valid_and_agrees_with_the_files(made, tmp_path):
    result = made(stac=True, date="2020-07-01T17:30", style=True, anchors="-105.58,40.46,1500")
    item = load(result.item)
    assert result.item == tmp_path / "dem.json" and faults(item) == []
    (broken := deepcopy(item))["properties"].pop("datetime")
    assert faults(broken), "the schemas notice nothing"
    assert set(item["assets"]) == {"elevation", "interval", "distance", "style"}
    properties = item["properties"]
    for name, asset in item["assets"].items():
        path = tmp_path / asset["href"]
        assert path.is_file()
        if name == "style":
            continue
        with rasterio.open(path) as file:
            band, = asset["bands"]
            values = file.read(1, masked=True)
            assert (band["name"], band["data_type"], band["nodata"]) == (name, file.dtypes[0], file.nodata)
            assert band["unit"] == file.units[0] and band["raster:spatial_resolution"] == pytest.approx(30, rel=0.01)
            assert band["statistics"]["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
            assert band["statistics"]["minimum"] == pytest.approx(float(values.min()), rel=1e-5)
            assert properties["proj:shape"] == list(file.shape) and properties["proj:code"] == "EPSG:32613"
            assert properties["proj:transform"] == list(file.transform)[:6]
    assert properties["datetime"] == "2020-07-01T17:30:00Z"
    weights, = properties["processing:expression"]["expression"]
    assert weights == {"name": result.tags["MODEL"], "sha256": result.tags["WEIGHTS_SHA256"]}
    assert properties["sat2dem:heights"] == result.tags["HEIGHTS"] and properties["sat2dem:image"] == "hills.tif"
    assert item["links"] == [{"rel": "derived_from", "href": "./hills.tif", "title": "hills.tif"}]


def test_the_item_opens_the_dem_elsewhere(made):
    """In pystac, and in odc-stac, which reads grid, type and nodata value from it."""
    result = made(stac=True, date=DAY)
    item = pystac.Item.from_file(str(result.item))
    assert item.datetime.isoformat() == "2020-07-01T00:00:00+00:00"
    elevation = odc.stac.load([item], bands=["elevation"]).elevation[0]
    with rasterio.open(result.path) as file:
        np.testing.assert_array_equal(elevation.values, file.read(1))
    assert elevation.dtype == np.float32 and elevation.nodata == -9999


def test_a_dem_of_anchors_is_a_source_too(made, hills, tmp_path):
    (folder := tmp_path / "known").mkdir()
    hills.dem.rio.to_raster(folder / "coarse dem.tif")
    item = load(made(stac=True, date=DAY, anchors=folder / "coarse dem.tif").item)
    assert [link["href"] for link in item["links"]] == ["./hills.tif", "./known/coarse dem.tif"]
    assert "of hills.tif, and from coarse dem.tif; heights are absolute" in item["properties"]["processing:lineage"]


def test_a_store_has_its_item_too(made, tmp_path):
    result = made("dem.zarr", stac=True, date=DAY)
    item = load(result.item)
    assert faults(item) == [] and list(item["assets"]) == ["elevation"]
    asset = item["assets"]["elevation"]
    assert (tmp_path / asset["href"]).samefile(result.path)
    assert [(band["name"], band["nodata"]) for band in asset["bands"]] == [
        ("elevation", "nan"), ("interval", "nan"), ("distance", "nan"),
    ]


def test_a_day_is_a_day_and_metadata_count_where_no_date_is_given(made, hills_image):
    properties = load(made(stac=True, date=DAY).item)["properties"]
    assert properties["start_datetime"] == properties["datetime"] == f"{DAY}T00:00:00Z"
    assert properties["end_datetime"] == f"{DAY}T23:59:59Z"
    with rasterio.open(hills_image, "r+") as file:
        file.update_tags(DATE_ACQUIRED="2019-06-05", SCENE_CENTER_TIME="17:44:01.5Z")
    assert load(made("next.tif", stac=True).item)["properties"]["datetime"] == "2019-06-05T17:44:01.500000Z"
    with rasterio.open(hills_image, "r+") as file:
        file.update_tags(SCENE_CENTER_TIME="")
    properties = load(made("third.tif", stac=True).item)["properties"]
    assert properties["datetime"] == "2019-06-05T00:00:00Z" and properties["end_datetime"] == "2019-06-05T23:59:59Z"


def test_what_cannot_be_described_is_told_before_the_work(made, tmp_path, write_raster, picture, tiny_weights, capsys):
    with pytest.raises(InvalidConfig, match=r"hills\.tif does not say when it was taken, .* \(--date\)"):
        made(stac=True)
    path = write_raster("plain.tif", picture, crs=None, transform=rasterio.Affine.identity())
    command = ["predict", str(path), str(tmp_path / "plain-dem.tif"), "--stac", "--weights", str(tiny_weights)]
    assert main([*command, "--gsd", "30"]) == 1
    assert "has no coordinates, and a STAC item needs a place" in capsys.readouterr().err
    assert not (tmp_path / "plain-dem.tif").exists() and not any(tmp_path.glob(".*.parts"))


def test_an_item_that_exists_stays(made, tmp_path):
    (tmp_path / "dem.json").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExists, match=r"dem\.json exists"):
        made(stac=True, date=DAY)
    made(stac=True, date=DAY, overwrite=True)
    assert faults(load(tmp_path / "dem.json")) == []


def test_without_its_item_no_file_appears(made, tmp_path, monkeypatch):
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(Description, "text", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(stac=True, date=DAY)
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {".dem.tif.parts", "hills.tif"}


# Places


def place(epsg: int, x: float, y: float, size: int, pixel: float) -> Grid:
    return Grid(CRS.from_epsg(epsg).to_wkt(), (pixel, 0.0, x, 0.0, -pixel, y), size, size)


def area(shape: shapely.Geometry) -> float:
    """Square meters on the ellipsoid."""
    return abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0])


@given(st.floats(-180, 180), st.floats(-78, 82), st.integers(40, 4000))
def test_outlines_have_the_area_of_their_pixels_wherever_they_lie(lon, lat, size):
    epsg = int(utm_epsg(lon, lat))
    x, y = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
    shape = footprint(place(epsg, x - 15 * size, y + 15 * size, size, 30.0))
    assert area(shape) == pytest.approx((30 * size) ** 2, rel=0.01)
    west, south, east, north = _bbox(shape)
    assert -180 <= west <= 180 and -180 <= east <= 180 and south < lat < north
    assert (west <= lon <= east) if west < east else (lon >= west or lon <= east)
    assert east - west < 90, "a box around the Earth"


def test_an_outline_across_180_degrees_is_cut_there():
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32760", always_xy=True).transform(179.999, -16.5)
    shape = footprint(place(32760, x - 15_000, y + 15_000, 1000, 30.0))
    west, _, east, _ = _bbox(shape)
    assert shape.geom_type == "MultiPolygon" and len(shape.geoms) == 2
    assert 179 < west < 180 and -180 < east < -179


def test_an_outline_around_a_pole_reaches_it():
    shape = footprint(place(3031, -100_000.0, 100_000.0, 200, 1000.0))
    west, south, east, north = shape.bounds
    assert (west, south, east) == (-180, -90, 180) and north == pytest.approx(-88.7, abs=0.1)


def test_a_grid_of_the_whole_earth_is_one_box():
    for left in (-180.0, 0.0):
        shape = footprint(Grid(CRS.from_epsg(4326).to_wkt(), (1.0, 0.0, left, 0.0, -1.0, 90.0), 180, 360))
        assert _bbox(shape) == [-180, -90, 180, 90]


def test_a_projection_without_a_code_is_described():
    crs = CRS.from_proj4("+proj=tmerc +lat_0=40.3 +lon_0=-105.5 +k=1 +x_0=0 +y_0=0 +ellps=GRS80 +units=m")
    described = _projection(Grid(crs.to_wkt(), (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), 64, 80))
    assert described["proj:code"] is None and CRS.from_wkt(described["proj:wkt2"]) == CRS.from_wkt(crs.to_wkt())
    assert described["proj:shape"] == [64, 80]
