"""STAC items as images: what catalogs say of real acquisitions, and files of known truth that a server hands out."""

import json
import sys
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from catalog import PLACE, reflectance
from pyproj import Transformer

from sat2dem_core.cli import main
from sat2dem_core.errors import (
    InvalidItem, MissingAsset, MissingExtra, OutputExists, Unreachable, UnreadableRaster, UnsupportedImagery,
)
from sat2dem_core.prediction import items
from sat2dem_core.prediction.items import open_item
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters.reader import opened

REAL = {
    "landsat-c2l2-sr_item.json": (["red", "green", "blue"], "158"),
    "sentinel-2-l2a_earth-search-v0_item.json": (["B04", "B03", "B02"], None),
    "sentinel-2-l2a_planetary-computer_item.json": (["B04", "B03", "B02"], "170"),
}


@pytest.fixture
def write_item(world, tmp_path):
    """``write_item(assets=…, links=…, collection=…, **properties)``: a file of the world's second item, changed."""

    def write(assets: dict | None = None, links: list | None = None, collection: str = "", **properties) -> str:
        item = deepcopy(world.items[1])
        item["properties"] |= {"eo:cloud_cover": 0.0} | properties
        item["assets"] = item["assets"] if assets is None else assets
        item |= {"links": links or [], "collection": collection or item["collection"]}
        (tmp_path / "item.json").write_text(json.dumps(item), encoding="utf-8")
        return str(tmp_path / "item.json")

    return write


def read(image) -> np.ndarray:
    with opened(image) as file:
        return file.read()


def tags(image) -> dict:
    with opened(image) as file:
        return file.tags()


def test_numbers_become_reflectance_whatever_their_offset_and_sensor(world):
    """Sentinel-2 before and after the offset, subtracted or not, and Landsat: one truth."""
    clear = [item for item in world.items[:8] if "haze" not in item["id"] and item["properties"]["eo:cloud_cover"] < 40]
    sensors = set()
    for item in clear:
        (path := world.folder / "one.json").write_text(json.dumps(item), encoding="utf-8")
        cloudy = item["properties"]["eo:cloud_cover"] > items.CLOUDY
        with pytest.warns(UserWarning, match="clouds cover") if cloudy else nullcontext():
            image = open_item(f"{world.url}/one.json")
        path.unlink()
        values = read(image)
        assert values.dtype == np.float32 and str(image) == image.id == item["id"]
        with opened(image) as file:
            assert file.descriptions == ("red", "green", "blue") and file.crs.to_epsg() == PLACE.epsg
            rows, columns = np.mgrid[250:290, 200:280]
            xy = rasterio.transform.xy(file.transform, rows.ravel(), columns.ravel())
        lonlat = Transformer.from_crs(f"EPSG:{PLACE.epsg}", "EPSG:4326", always_xy=True).transform(*xy)
        np.testing.assert_allclose(values[:, 250:290, 200:280].reshape(3, -1), reflectance(*lonlat), atol=1e-4)
        sensors.add(item["collection"])
    assert len(clear) >= 5 and sensors == {"sentinel-2-l2a", "landsat-c2-l2"}


def test_an_item_is_predicted_as_the_same_image_in_one_file_would_be(world, write_item, tmp_path, tiny_weights, capsys):
    address = f"{world.url}/collections/s2/items/one"
    source = write_item(links=[{"rel": "self", "href": address}])
    values = read(image := open_item(source))
    with opened(image) as file:
        profile = {name: file.profile[name] for name in ("width", "height", "count", "dtype", "crs", "transform")}
    with rasterio.open(tmp_path / "stack.tif", "w", driver="GTiff", nodata=np.nan, **profile) as file:
        file.write(values)
    command = ["--weights", str(tiny_weights), "--no-caution"]
    assert main(["predict", "--item", source, str(tmp_path / "dem.tif"), "--stac", *command]) == 0
    assert main(["predict", str(tmp_path / "stack.tif"), str(tmp_path / "same.tif"), "--sun", "150", *command]) == 0
    np.testing.assert_array_equal(read(tmp_path / "dem.tif"), read(tmp_path / "same.tif"))
    written = tags(tmp_path / "dem.tif")
    assert written["IMAGE"] == image.id and written["SUN"] == "150 degrees, the image's metadata"
    described = json.loads((tmp_path / "dem.json").read_text(encoding="utf-8"))
    assert described["properties"]["datetime"] == "2023-06-01T11:00:00Z"
    assert described["links"] == [
        {"rel": "derived_from", "href": address, "title": image.id, "type": "application/geo+json"}
    ]
    capsys.readouterr()
    assert main(["info", "--item", source, "--json", *command[:2]]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["image"], facts["sun"], facts["dtype"]) == (image.id, 150, "float32")


def test_the_same_item_is_the_same_file_so_that_an_interrupted_prediction_resumes(write_item):
    first, again = open_item(write_item()), open_item(write_item())
    assert first.path == again.path and first.path.stat().st_mtime_ns == again.path.stat().st_mtime_ns
    assert open_item(write_item(**{"view:sun_azimuth": 20.0})).path != first.path


@pytest.mark.parametrize("name", REAL)
def test_bands_and_sun_of_real_items(shared, name, monkeypatch):
    keys, sun = REAL[name]
    example = items._File("", items.Grid(None, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 9, 9), "uint16", 0.0, (9, 9))
    opened_hrefs = []

    def examine(item, band):
        href = item.assets[band.key].href
        opened_hrefs.append(items._address(href, items._is_signed(item, href)))
        return example

    monkeypatch.setattr(items, "_examine", examine)
    content = pystac.Item.from_dict(json.loads((shared / "data/stac" / name).read_text(encoding="utf-8")))
    assert [band.key for band in items._find_bands(content)] == keys
    image = open_item(shared / "data/stac" / name)
    text = image.path.read_text(encoding="utf-8")
    assert image.id == content.id and image.taken["datetime"][:16] == f"{content.datetime:%Y-%m-%dT%H:%M}"
    assert ("sun_azimuth" not in text) if sun is None else (f'<MDI key="sun_azimuth">{sun}.' in text)
    assert all(("pc_url_signing=yes" in href) == ("planetary" in name) for href in opened_hrefs)
    # The offset of Sentinel-2 began with processing baseline 04.00; the item without a baseline keeps its numbers.
    scale = {"landsat": "-0.2", "planetary": "0.0"}
    stated = next((f"<ScaleOffset>{offset}</ScaleOffset>" for word, offset in scale.items() if word in name), None)
    assert (stated in text) if stated else ("ScaleOffset" not in text)


def test_an_elevation_item_has_no_colors(shared):
    with pytest.raises(MissingAsset, match=r"W115_00_DEM has no red, green and blue, .* \(its assets: data, src"):
        open_item(shared / "data/stac/cop-dem-glo-30_item.json")


def test_colors_in_one_file_are_taken_from_their_bands(write_item, write_raster):
    """Those of aerial imagery, as the item describes them; and those of a display image, which only its name tells."""
    four = np.stack([np.full((40, 50), value, np.uint8) for value in (9, 10, 20, 30)])
    path = write_raster("aerial.tif", four)
    described = [{"name": f"band {name}", "common_name": name} for name in ("nir", "red", "green", "blue")]
    asset = {"href": path.name, "type": "image/tiff; application=geotiff", "roles": ["data"]}
    image = open_item(write_item(assets={"image": asset | {"eo:bands": described}}))
    assert read(image)[:, 0, 0].tolist() == [10, 20, 30] and read(image).dtype == np.uint8
    image = open_item(write_item(assets={"thumbnail": asset, "visual": asset}))
    assert read(image)[:, 0, 0].tolist() == [9, 10, 20]
    assert path.samefile(image.files[0])


def test_the_best_of_several_assets_of_a_color_is_taken(world, write_item):
    good = world.items[1]["assets"]
    red = {"href": "nowhere.jp2", "type": "image/jp2", "eo:bands": [{"name": "B04", "common_name": "red"}]}
    assets = {"red-jp2": red, **good, "quicklook": red | {"type": "image/png", "gsd": 1}}
    assert "nowhere" not in "".join(open_item(write_item(assets=assets)).files)


def test_scale_and_offset_that_an_unknown_product_states_are_applied(write_item, write_raster):
    colors = {}
    for color, value in {"red": 100, "green": 200, "blue": 300}.items():
        path = write_raster(f"{color}.tif", np.full((40, 50), value, np.uint16))
        stated = {"nodata": 0, "scale": 0.001, "offset": -0.05}
        colors[color] = {"href": str(path), "type": "image/tiff", "raster:bands": [stated]}
    values = read(open_item(write_item(assets=colors, collection="other")))
    np.testing.assert_allclose(values[:, 0, 0], [0.05, 0.15, 0.25], atol=1e-6)
    colors["red"]["raster:bands"] = colors["green"]["raster:bands"] = colors["blue"]["raster:bands"] = []
    assert read(open_item(write_item(assets=colors, collection="other")))[:, 0, 0].tolist() == [100, 200, 300]


@pytest.mark.parametrize("declared", [{"nodata": 0}, {}])
def test_pixels_without_data_stay_so(write_item, write_raster, declared):
    colors = {}
    for color in ("red", "green", "blue"):
        numbers = np.full((40, 50), 3000, np.uint16)
        numbers[:10] = 0
        colors[color] = {"href": str(write_raster(f"{color}.tif", numbers, **declared)), "type": "image/tiff"}
    values = read(open_item(write_item(assets=colors)))
    assert np.isnan(values[:, :10]).all() and np.allclose(values[:, 10:], 0.3)


def test_an_item_that_lies_elsewhere_names_its_files_relative_to_itself(world, write_item):
    assets = {key: asset | {"href": f"./{Path(asset['href']).name}"} for key, asset in world.items[1]["assets"].items()}
    (world.folder / "relative.json").write_text(Path(write_item(assets=assets)).read_text(encoding="utf-8"), "utf-8")
    image = open_item(f"{world.url}/relative.json")
    assert all(file.startswith(f"/vsicurl/{world.url}/") for file in image.files) and len(image.files) == 3
    assert image.link == f"{world.url}/relative.json"


def test_planetary_computer_is_asked_for_a_signature(server, write_item, write_raster, monkeypatch):
    path = write_raster("visual.tif", np.full((3, 40, 50), 77, np.uint8))
    monkeypatch.setenv("VSICURL_PC_SAS_SIGN_HREF_URL", f"{server.url}/sign?href=")
    monkeypatch.setattr(items, "BLOBS", server.url.partition("://")[2])
    root = [{"rel": "root", "href": f"https://{items.PLANETARY}/api/stac/v1"}]
    for name, links, asked in (("open.tif", None, False), ("closed.tif", root, True)):
        (server.folder / name).write_bytes(path.read_bytes())
        answer = {"msft:expiry": "2099-01-01T00:00:00Z", "href": f"{server.url}/{name}?sig=1"}
        (server.folder / "sign").write_text(json.dumps(answer), encoding="utf-8")
        asset = {"href": f"{server.url}/{name}", "type": "image/tiff"}
        image = open_item(write_item(assets={"visual": asset}, links=links))
        assert (read(image) == 77).all()
        assert ("sign" in dict(server.requests)) == asked, "an item of another catalog needs no signature"
    assert "sig=" not in image.path.read_text(encoding="utf-8")


def test_clouds_are_announced(write_item):
    with pytest.warns(UserWarning, match="clouds cover 63 % of S2A_"):
        open_item(write_item(**{"eo:cloud_cover": 63.2}))


def test_files_of_an_item_are_never_overwritten(write_item, write_raster, tiny_weights):
    path = write_raster("visual.tif", np.random.default_rng(0).integers(1, 255, (3, 64, 80), dtype=np.uint8))
    image = open_item(write_item(assets={"visual": {"href": str(path), "type": "image/tiff"}}))
    with pytest.raises(OutputExists, match=r"visual\.tif is a file that the prediction reads"):
        predict(image, path, tiny_weights, overwrite=True, progress=False)


@pytest.mark.parametrize(("content", "error", "match"), [
    (None, InvalidItem, r"item\.json cannot be read as a STAC item \(No such file or directory\): check the path"),
    ("{", InvalidItem, r"item\.json is no STAC item, for it is no JSON"),
    ("[]", InvalidItem, r"item\.json is no STAC item but a list: give the address or the file of one item"),
    ('{"type": "FeatureCollection", "features": []}', InvalidItem, "no STAC item but a FeatureCollection"),
    ('{"type": "Feature", "geometry": null, "properties": {}}', InvalidItem, "no STAC item that can be read"),
])
def test_what_is_no_item_is_told(tmp_path, content, error, match):
    path = tmp_path / "item.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=match):
        open_item(path)


def test_faults_of_an_item_end_in_one_sentence(world, write_item, write_raster, capsys):
    good = world.items[1]["assets"]
    small = write_raster("small.tif", np.full((30, 40), 7, np.uint16))
    cases = {
        Unreachable: f"{world.url}/absent.json",
        UnsupportedImagery: write_item(assets=good | {"blue": {"href": str(small), "type": "image/tiff"}}),
    }
    with pytest.raises(Unreachable, match=r"absent\.json does not answer \(404 .*check the address"):
        open_item(cases[Unreachable])
    with pytest.raises(UnsupportedImagery, match="the assets red and blue have different pixels"):
        open_item(cases[UnsupportedImagery])
    lost = good | {"green": {"href": f"{world.url}/lost.tif", "type": "image/tiff"}}
    with pytest.raises(UnreadableRaster, match=r"S2A_.*: the asset green cannot be read from http.*lost\.tif \("):
        open_item(write_item(assets=lost))
    assert main(["predict", "--item", write_item(assets={}), "dem.tif"]) == 1
    assert "has no red, green and blue" in (text := capsys.readouterr().err) and text.count("\n") == 1


def test_without_the_extra_the_message_names_it(write_item, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sat2dem-core\[catalogs\]'"):
        open_item(write_item())
