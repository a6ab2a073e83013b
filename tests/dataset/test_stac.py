"""Tiles from catalogs, in a world whose reflectance and elevation are known functions of longitude and latitude."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import catalog
import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
from catalog import BORDER, COAST, EDGE, PLACE
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from sat2dem_core.dataset import stac
from sat2dem_core.dataset.catalogs import Request, Source, source
from sat2dem_core.dataset.stac import composite, elevation, search, tile, to_uint8
from sat2dem_core.errors import EmptySearch, InvalidRegion, MissingAsset, Unreachable


@pytest.fixture
def ask(api):
    """``ask(start, end, ...)``: a request to the API on localhost."""
    def make(start="2023-06-01", end="2023-06-30", sensor="sentinel-2", **changes):
        return Request(start, end, source(sensor, "earth-search", api), source("glo-30", url=api), **changes)

    return make


def items(world, *names: str) -> list[pystac.Item]:
    return [pystac.Item.from_dict(item) for item in world.items if any(item["id"].startswith(name) for name in names)]


def truth(geobox: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (3, y, x) and meters (y, x) at the centers of pixels."""
    y, x = (geobox.coords[axis].values for axis in geobox.dims)
    lon, lat = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
    return catalog.reflectance(lon, lat), catalog.elevation(lon, lat)


IMAGERY, ELEVATION = source("sentinel-2"), source("glo-30")
ZONE = f"S2A_{PLACE.epsg}_"


# ---- composites

@pytest.mark.parametrize("day", ["20210601", "20230601", "20230606", "20230611"])
def test_the_offset_is_subtracted_exactly_once_whatever_the_catalog_states(world, day):
    picture = composite(items(world, ZONE + day), PLACE.geobox, IMAGERY).reflectance
    error = np.abs(picture - truth(PLACE.geobox)[0])
    assert error.max() < 5e-4 and error.notnull().any()


def without_time(item, world):
    item.properties["datetime"] = item.properties["start_datetime"] = None


def without_baseline(item, world):
    del item.properties["s2:processing_baseline"]


def of_null_baseline(item, world):
    item.properties["s2:processing_baseline"] = None


def of_unknown_crs(item, world):
    """Its files state none; what the item states does not matter, since the files are read."""
    item.properties["proj:epsg"] = 999_999
    name = item.assets["red"].href.rsplit("/", 1)[1]
    with rasterio.open(world.folder / name) as file:
        profile, values = file.profile, file.read()
    profile |= {"driver": "GTiff", "crs": None}
    with rasterio.open(world.folder / f"without-{name}", "w", **profile) as file:
        file.write(values)
    item.assets["red"].href = item.assets["red"].href.replace(name, f"without-{name}")


def without_mask(item, world):
    del item.assets["scl"]


@pytest.mark.parametrize(("spoil", "words"), [
    (without_time, "states no time"), (without_baseline, "states no processing baseline"),
    (of_null_baseline, "baseline that can be read .None."), (of_unknown_crs, "cannot be laid on a grid"),
    (without_mask, "has no asset scl"),
])
def test_an_untidy_item_is_left_out_and_named(world, spoil, words):
    good, bad = items(world, ZONE + "20230601", ZONE + "20230611")
    spoil(bad, world)
    with pytest.warns(UserWarning, match=rf"{bad.id} .*{words}.* left out"):
        picture = composite([good, bad], PLACE.geobox, IMAGERY)
    assert picture.attrs["acquisitions"] == [good.id]
    assert float(np.abs(picture.reflectance - truth(PLACE.geobox)[0]).max()) < 5e-4


@pytest.mark.parametrize(("baseline", "offset"), [
    ("N0509", -0.1), ("05.09", -0.1), (5.09, -0.1), ("N0214", 0.0), ("02.14", 0.0), (4, -0.1), ("04.00", -0.1),
])
def test_a_baseline_is_understood_as_catalogs_and_names_of_files_write_it(world, baseline, offset):
    item = items(world, ZONE + "20230611")[0]
    item.properties["s2:processing_baseline"] = baseline
    assert stac.SENSORS["sentinel-2"][1](item) == (1e-4, offset)


@pytest.fixture
def answering():
    """``answering(items)``: the address of an API that answers every search with these items, as they are."""
    servers = []

    def serve(found):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send(landing)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send({"type": "FeatureCollection", "features": found, "links": []})

            def send(self, answer):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}"
        landing = {
            "type": "Catalog", "stac_version": "1.0.0", "id": "untidy", "description": "an untidy catalog",
            "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
            "links": [{"rel": "search", "href": f"{url}/search", "method": "POST", "type": "application/geo+json"}],
        }
        Thread(target=server.serve_forever, daemon=True).start()
        return url

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("change", "words"), [
    ({"properties": {"eo:cloud_cover": 3}}, "datetime"), ({"properties": {"datetime": None}}, "datetime"),
    ({"properties": {"datetime": "yesterday"}}, "yest"), ({"properties": None}, "can be read"),
    ({"geometry": None, "bbox": None}, "states no place"), ({"geometry": None, "bbox": [None, 0, 1, 1]}, "can be read"),
    ({"geometry": {"type": "Polygon", "coordinates": []}}, "states no place"), ({"assets": {"red": {}}}, "href"),
    ({"geometry": {"type": "Circle", "coordinates": [1]}}, "circle"), ({"assets": {"red": None}}, "can be read"),
    ({"type": "Thing"}, "can be read"),
])
def test_an_item_that_is_none_is_left_out_of_an_answer_and_named(world, answering, change, words):
    good = next(item for item in world.items if item["id"] == ZONE + "20230601")
    url = answering([good | {"id": "untidy"} | change, good])
    with pytest.warns(UserWarning, match=f"untidy .*({words}).* is left out"):
        found = search(source("sentinel-2", url=url), (-4, 40, -3, 41))
    assert [item.id for item in found] == [good["id"]]


def test_tiles_of_one_block_share_a_search_that_is_on_its_way(monkeypatch):
    asked = []

    def slow(origin, *filters):
        asked.append(origin.collection)
        time.sleep(0.2)
        return []

    monkeypatch.setattr(stac, "search", slow)
    stac._search_block.cache_clear()
    block = (-4.0, 40.0, -3.0, 41.0)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda origin: stac._in_block(origin, block), [IMAGERY, ELEVATION] * 3))
    assert found == [()] * 6 and sorted(asked) == ["cop-dem-glo-30", "sentinel-2-l2a"]


def test_a_search_that_failed_is_asked_again(monkeypatch):
    answers = iter([Unreachable("busy"), []])

    def search(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(stac, "search", search)
    stac._search_block.cache_clear()
    with pytest.raises(Unreachable):
        stac._in_block(IMAGERY, (-4.0, 40.0, -3.0, 41.0))
    assert stac._in_block(IMAGERY, (-4.0, 40.0, -3.0, 41.0)) == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("AB"), st.none() | st.integers(0, 100)), max_size=12),
       st.integers(1, 9))
def test_the_clearest_looks_are_read(frames, most):
    """A look is what one satellite sees on one day, in one frame or in several."""
    looks = [
        SimpleNamespace(properties={"datetime": f"2023-06-0{day}T11:00:00Z", "platform": side, "eo:cloud_cover": cover})
        for day, side, cover in frames
    ]
    kept = stac._clearest(looks, most)
    assert kept == [look for look in looks if look in kept]  # in their order
    covers = {}
    for day, side, cover in frames:
        covers.setdefault((day, side), []).append(cover)
    means = {name: np.mean([c for c in of if c is not None] or [np.inf]) for name, of in covers.items()}
    names = {(int(look.properties["datetime"][9]), look.properties["platform"]) for look in kept}
    assert len(names) == min(most, len(covers))
    assert all(means[name] <= means[other] for name in names for other in covers.keys() - names)


def test_a_tile_reads_no_more_looks_than_asked(ask):
    every = tile(PLACE, ask()).attrs["acquisitions"]
    picture = tile(PLACE, ask(most_looks=2))
    assert len(picture.attrs["acquisitions"]) == 2 < len(every)
    assert ZONE + "20230616" not in picture.attrs["acquisitions"]  # the cloudiest
    with pytest.raises(InvalidRegion, match="most_looks is 0.*give 1 or more"):
        ask(most_looks=0)


def test_angles_of_the_sun_may_be_missing(world):
    item = items(world, ZONE + "20230601")[0]
    item.properties |= {"view:sun_azimuth": None, "view:sun_elevation": None}
    assert np.isnan(composite([item], PLACE.geobox, IMAGERY).attrs["sun_azimuth"])


@given(st.floats(-185, 180), st.floats(-90, 89), st.floats(0.01, 9))
def test_boxes_across_180_degrees_are_asked_in_two(west, south, size):
    boxes = stac._boxes((west, south, west + size, south + size))
    assert all(-180 <= box[0] <= box[2] <= 180 and -90 <= box[1] <= box[3] <= 90 for box in boxes)
    assert sum(box[2] - box[0] for box in boxes) == pytest.approx(size)
    assert len(boxes) == (1 if west >= -180 and west + size <= 180 else 2)


@pytest.mark.parametrize(("name", "offset"), [
    ("sentinel-2-l2a_planetary-computer_item.json", 0.0), ("sentinel-2-l2a_earth-search-v0_item.json", None),
])
def test_real_items_state_their_baseline_or_are_refused(shared, name, offset):
    text = (shared / "data/stac" / name).read_text(encoding="utf-8")
    item = pystac.Item.from_dict(json.loads(text), preserve_dict=False)
    scaling = stac.SENSORS["sentinel-2"][1]
    if offset is None:
        with pytest.raises(MissingAsset, match=item.id):
            scaling(item)
    else:
        assert float(item.properties["s2:processing_baseline"]) < 4 and scaling(item) == (1e-4, offset)
        item.properties["s2:processing_baseline"] = "04.00"
        assert scaling(item) == (1e-4, -0.1)


def test_no_cloud_is_left_where_one_look_is_clear(world):
    looks = items(world, ZONE + "20230601", ZONE + "20230606", ZONE + "20230611")
    picture = composite(looks, PLACE.geobox, IMAGERY)
    assert picture.reflectance.notnull().all()
    assert float(np.abs(picture.reflectance - truth(PLACE.geobox)[0]).max()) < 5e-4
    assert picture.attrs["acquisitions"] == [item.id for item in looks]
    assert picture.attrs["dates"] == ["2023-06-01", "2023-06-06", "2023-06-11"]
    # Clouds cover rows 90 to 200, columns 0 to 150 and 300 to 440 of the 440; the tile has those from 20 to 404.
    assert picture.attrs["cloud_share"] == pytest.approx((110 + 130 + 104) / 384 / 3, abs=0.01)


def test_the_median_removes_a_haze_that_the_mask_misses(world):
    clear = items(world, ZONE + "20210601", ZONE + "20230601", ZONE + "20230606", ZONE + "20230611")
    hazy = items(world, ZONE + "20230616")
    alone = composite(hazy, PLACE.geobox, IMAGERY).reflectance
    both = composite(clear + hazy, PLACE.geobox, IMAGERY).reflectance.where(alone.notnull())
    assert float((alone - truth(PLACE.geobox)[0]).min()) > 0.4
    wrong = np.abs(both - truth(PLACE.geobox)[0]) > 5e-4
    assert float(wrong.sum() / both.notnull().sum()) < 0.05  # next to masked pixels some have two looks only


def test_pixels_without_a_clear_look_are_nan(world):
    picture = composite(items(world, ZONE + "20230616"), PLACE.geobox, IMAGERY)
    hidden = picture.reflectance.isnull().all("band")
    assert 0.7 < float(hidden.mean()) < 0.9 and bool(hidden.values[100, 10]) and not bool(hidden.values[100, 250])


def test_landsat_has_its_own_scale_and_mask(world):
    picture = composite(items(world, "LC09"), PLACE.geobox, source("landsat"))
    assert picture.reflectance.notnull().all()
    assert float(np.abs(picture.reflectance - truth(PLACE.geobox)[0]).max()) < 5e-4


def test_bits_of_qa_pixel():
    is_clear = stac.SENSORS["landsat"][0]
    clear, cloud, shadow, snow, fill = 21824, 22280, 23888, 30048, 1
    assert is_clear(np.array([clear, snow])).all() and not is_clear(np.array([cloud, shadow, fill])).any()


def test_reflectance_to_uint8():
    values = np.array([-0.1, 0.0, 0.15, 0.3, 0.9, np.nan])
    assert to_uint8(values, (0.0, 0.3)).tolist() == [0, 0, 128, 255, 255, 0]


# ---- elevation

GLO30 = source("glo-30")


def test_elevation_is_interpolated_across_files(world):
    box = GeoBox.from_bbox((430_000, 4_423_000, 437_680, 4_430_680), "EPSG:32630", shape=(256, 256))  # across 40° N
    height = elevation(items(world, "Copernicus"), box, GLO30)
    assert height.dtype == np.float32 and height.notnull().all() and height.attrs["sea_share"] == 0
    error = np.abs(height - truth(box)[1])
    assert float(error.quantile(0.99)) < 0.2 and float(error.max()) < 4  # half a pixel of 93 m is missing at an edge


def test_a_void_is_nan_and_the_open_sea_is_zero(world):
    lon, lat = -4 + 602.5 / 1200, 40 - 602.5 / 1200  # amid the void
    box = catalog.cell_at(lon, lat, "EPSG:4326").geobox
    height = elevation(items(world, "Copernicus"), box, GLO30)
    holes = height.isnull()
    assert 0 < int(holes.sum()) < 1000 and height.attrs["sea_share"] == 0
    assert float(height.min()) > 400  # nothing of -32767 is mixed in
    coast = elevation(items(world, "Copernicus"), COAST.geobox, GLO30)
    x, y = np.meshgrid(*(COAST.geobox.coords[axis].values for axis in ("x", "y")))
    sea = Transformer.from_crs("EPSG:32630", "EPSG:4326", always_xy=True).transform(x, y)[0] > -3
    assert 0 < sea.mean() < 1 and coast.attrs["sea_share"] == pytest.approx(sea.mean(), abs=0.01)
    assert np.abs(coast.values[~sea]).min() > 400 and (coast.values[sea] == 0).mean() > 0.99


def test_voids_of_an_item_without_a_box_do_not_become_sea(world):
    box = catalog.cell_at(-4 + 602.5 / 1200, 40 - 602.5 / 1200, "EPSG:4326").geobox  # amid the void
    boxless = items(world, "Copernicus")
    for item in boxless:
        item.bbox = None
    with pytest.raises(MissingAsset, match="Copernicus.* states no bounding box"):
        elevation(boxless, box, GLO30)


@pytest.mark.parametrize("name", ["glo_merged.tif", "Rome-30m-DEM.tif"])
def test_real_pieces_of_glo30(shared, world, name):
    path = shared / "data/glo30" / name
    with rasterio.open(path) as file:
        bounds, values, nodata = file.bounds, file.read(1).astype(float), file.nodata
        expected = {"min": np.nanmin(values[values != nodata]), "max": np.nanmax(values[values != nodata])}
    (world.folder / name).write_bytes(path.read_bytes())
    geometry, day = shapely.geometry.mapping(shapely.box(*bounds)), pystac.utils.str_to_datetime("2021-04-22")
    item = pystac.Item(name, geometry, list(bounds), datetime=day, properties={})
    item.collection_id = "cop-dem-glo-30"
    item.add_asset("data", pystac.Asset(f"{world.url}/{name}", roles=["data"]))
    middle = (bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2
    epsg = catalog.cell_at(*middle, "EPSG:4326").epsg
    x, y = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(*middle)
    box = GeoBox.from_bbox((x - 3000, y - 3000, x + 3000, y + 3000), f"EPSG:{epsg}", shape=(200, 200))
    height = elevation([item], box, GLO30)
    with rasterio.open(path) as file:
        row, column = file.index(*middle)
        nearby = file.read(1)[row - 1 : row + 2, column - 1 : column + 2]
    assert height.notnull().all() and height.attrs["sea_share"] == 0
    assert expected["min"] - 1 <= float(height.min()) and float(height.max()) <= expected["max"] + 1
    assert nearby.min() - 1 <= float(height[100, 100]) <= nearby.max() + 1


# ---- search

def test_search_gives_each_item_once_by_time_and_no_other_satellites(api):
    bounds = shapely.box(*PLACE.footprint.bounds).bounds
    looks = search(source("landsat", "earth-search", api), bounds, "2023-01-01", "2023-12-31")
    assert [item.properties["platform"] for item in looks] == ["landsat-9", "landsat-8"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"start": "2019-01-01", "end": "2019-02-01"}, r"sentinel-2-l2a .* has nothing from 2019-01-01 to 2019-02-01"),
    ({"max_cloud": 5}, r"4 acquisitions from 2023-06-01 .*none with at most 5 % cloud \(the clearest has 25 %\)"),
])
def test_an_empty_search_names_the_filter_that_left_nothing(ask, changes, message):
    with pytest.raises(EmptySearch, match=message):
        stac.check(ask(**changes), PLACE.footprint.bounds)


def test_a_region_at_sea_is_refused(ask):
    with pytest.raises(EmptySearch, match="no elevation.*at sea"):
        stac.check(ask(), (-20, 40, -19.9, 40.1))


def test_a_catalog_that_is_not_there(monkeypatch):
    monkeypatch.setattr(stac, "ATTEMPTS", 1)
    with pytest.raises(Unreachable, match="127.0.0.1:9 does not answer"):
        search(Source("http://127.0.0.1:9", "sentinel-2-l2a", ("red",), ""), (0, 0, 1, 1))


# ---- tiles

def test_a_tile_is_a_pair_with_its_provenance(ask):
    scene = tile(PLACE, ask())
    bands, height = truth(PLACE.geobox)
    assert scene.rgb.dtype == np.uint8 and scene.dem.dtype == np.float32 and scene.rgb.shape == (3, 256, 256)
    assert np.abs(scene.rgb.values.astype(int) - to_uint8(bands, (0, 0.3))).max() <= 3
    assert np.nanmax(np.abs(scene.dem - height)) < 2
    attrs = scene.attrs
    assert (attrs["crs"], attrs["left"], attrs["top"]) == ("EPSG:32630", PLACE.left, PLACE.top)
    assert (attrs["nodata_share"], attrs["sea_share"], attrs["sun_azimuth"]) == (0, 0, 150)
    assert len(attrs["acquisitions"]) == 3 and "Copernicus DEM GLO-30" in attrs["license"]  # a fourth is too cloudy


def test_a_scene_edge_leaves_the_rest_without_elevation(ask):
    scene = tile(EDGE, ask("2023-07-01", "2023-07-31"))
    valid = scene.dem.notnull().values
    assert valid[2:100, 2:100].all() and not valid[:, 150:].any() and not valid[150:].any()
    assert scene.attrs["nodata_share"] == pytest.approx(1 - valid.mean())


def test_tiles_of_two_zones_agree_with_the_same_truth(ask):
    assert {cell.epsg for cell in BORDER} == {32629, 32630}
    for cell in BORDER:
        scene = tile(cell, ask("2023-07-01", "2023-07-31"))
        bands, height = truth(cell.geobox)
        valid = scene.dem.notnull().values
        assert valid.mean() > 0.2
        assert np.abs(scene.rgb.values.astype(int) - to_uint8(bands, (0, 0.3)))[:, valid].max() <= 3
        assert np.abs(scene.dem.values - height)[valid].max() < 4


def test_excluded_acquisitions_are_left_out(ask):
    name = ZONE + "20230606"
    assert name not in tile(PLACE, ask(exclude=(name,))).attrs["acquisitions"]


# ---- a network that fails

@pytest.fixture
def quick(monkeypatch, world):
    """Short waits, and no fault left behind."""
    settings = {"GDAL_HTTP_TIMEOUT": 2, "GDAL_HTTP_RETRY_DELAY": 0.05, "GDAL_HTTP_MAX_RETRY": 1}
    monkeypatch.setattr(stac, "HTTP", stac.HTTP | settings)
    monkeypatch.setattr(stac.time, "sleep", lambda seconds: None)
    yield
    world.server.set(faults={})


VISIT = itertools.count()


def unseen(world, name: str) -> list[pystac.Item]:
    """Items whose files have addresses that are new to GDAL, which remembers files that it has read."""
    found, folder = items(world, name), world.folder / f"visit{next(VISIT)}"
    folder.mkdir()
    for asset in (asset for item in found for asset in item.assets.values()):
        file = asset.href.rsplit("/", 1)[-1]
        (folder / file).hardlink_to(world.folder / file)
        asset.href = f"{world.url}/{folder.name}/{file}"
    return found


def test_a_second_tile_does_not_ask_for_the_header_of_a_file_again(world):
    looks = unseen(world, ZONE + "20230601")
    composite(looks, PLACE.geobox, IMAGERY)
    asked = len(world.server.requests)
    composite(looks, PLACE.geobox, IMAGERY)
    assert all(part and not part.startswith("bytes=0-") for _, part in world.server.requests[asked:])


@pytest.mark.parametrize("faults", [
    [(429, {"Retry-After": "1"})] * 2, [500] * 2, [503] * 2, ["cut"] * 2, ["stall"] * 2,
    [404], [None, 404], [None, None, "cut"], [None, None, 500, 500],  # one within the header, then within the pixels
])
def test_a_passing_fault_changes_nothing(world, quick, faults):
    looks = unseen(world, ZONE + "20230601")
    expected = composite(items(world, ZONE + "20230601"), PLACE.geobox, IMAGERY)
    world.server.set(faults={f"{looks[0].id}_red.tif": faults})
    xr.testing.assert_identical(composite(looks, PLACE.geobox, IMAGERY), expected)
    assert not world.server.faults  # they did happen


@pytest.mark.parametrize("fault", [404, 403, 500])
def test_a_lasting_fault_is_one_clear_error(world, quick, fault):
    looks = unseen(world, ZONE + "20230601")
    world.server.set(faults={f"{looks[0].id}_red.tif": [fault] * 1000})
    with pytest.raises(Unreachable, match=f"{looks[0].id} of sentinel-2-l2a cannot be read.*try later, or leave it"):
        composite(looks, PLACE.geobox, IMAGERY)


def test_a_truncated_file_is_never_read_as_data(world, quick):
    item = items(world, ZONE + "20230601")[0]
    whole = (world.folder / f"{item.id}_red.tif").read_bytes()
    (world.folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    item.assets["red"].href = f"{world.url}/truncated.tif"
    with pytest.raises(Unreachable, match=item.id):
        composite([item], PLACE.geobox, IMAGERY)
