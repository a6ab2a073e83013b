"""STAC items as images: what catalogs say of real acquisitions, and files of known truth that a server hands out."""

import json
from copy import deepcopy

import numpy as np
import pytest
import rasterio
from catalog import PLACE, reflectance
from pyproj import Transformer

from sat2dem_core.cli import main
from sat2dem_core.errors import InvalidItem, MissingAsset, UnreadableRaster, Unreachable, UnsupportedImagery
from sat2dem_core.prediction import items
from sat2dem_core.prediction.items import open_item
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters.imagery import open_image
from sat2dem_core.rasters.reader import opened
from sat2dem_core.rasters.solar import stated_sun


@pytest.fixture
def write_item(world, tmp_path):
    """``write_item(number, **properties)``: the file of one of the world's items, with other properties or assets."""

    def write(number: int, assets: dict | None = None, links: list | None = None, **properties) -> str:
        item = deepcopy(world.items[number])
        item["properties"] |= properties
        item["assets"] = item["assets"] if assets is None else assets
        item["links"] = links or []
        (tmp_path / "item.json").write_text(json.dumps(item), encoding="utf-8")
        return str(tmp_path / "item.json")

    return write


def read(image) -> np.ndarray:
    with opened(image) as file:
        return file.read()


def test_numbers_become_reflectance_whatever_their_offset_and_sensor(world, write_item):
    """Sentinel-2 before and after the offset, subtracted or not, and Landsat: one truth."""
    shown = []
    for item in world.items[:8]:
        if item["id"].startswith(("S2A", "LC09")) and item["properties"]["eo:cloud_cover"] < 21:
            (path := world.folder / "one.json").write_text(json.dumps(item), encoding="utf-8")
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
            shown.append(item["id"])
    assert len(shown) >= 4 and {name[:4] for name in shown} == {"S2A_", "LC09"}
