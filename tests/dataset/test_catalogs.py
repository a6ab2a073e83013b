"""The names that catalogs use, and requests that are impossible."""

import json
from dataclasses import replace

import pytest

from sat2dem_core.dataset.catalogs import Request, source
from sat2dem_core.errors import InvalidRegion, UnknownName


@pytest.mark.parametrize(("period", "message"), [
    (("2023-06-30", "2023-06-01"), "reversed"), (("June", "2023-06-01"), "no pair of days"),
])
def test_impossible_periods(period, message):
    with pytest.raises(InvalidRegion, match=message):
        Request(*period)


def test_a_mirror_is_the_same_product_at_another_address_and_needs_no_signature():
    mirror = source("landsat", url="http://127.0.0.1:9")
    assert mirror == replace(source("landsat"), url="http://127.0.0.1:9", signed=False)


def test_unknown_products_and_catalogs_list_the_valid_ones():
    with pytest.raises(UnknownName, match="unknown product 'modis': choose one of sentinel-2, landsat, glo-30"):
        source("modis")
    with pytest.raises(UnknownName, match="unknown catalog 'google': choose one of planetary-computer, earth-search"):
        source("landsat", "google")


def test_landsat_comes_from_the_catalog_whose_files_are_free():
    assert "planetarycomputer" in source("landsat").url and source("landsat").signed
    assert "earth-search" in source("sentinel-2").url and not source("sentinel-2").signed


@pytest.mark.parametrize(("product", "catalog_name", "file"), [
    ("sentinel-2", "planetary-computer", "sentinel-2-l2a_planetary-computer_item.json"),
    ("landsat", "planetary-computer", "landsat-c2l2-sr_item.json"),
])
def test_real_items_have_the_assets_that_the_sources_name(shared, product, catalog_name, file):
    assets = json.loads((shared / "data/stac" / file).read_text(encoding="utf-8"))["assets"]
    named = source(product, catalog_name)
    assert {*named.bands, named.mask} - {"qa_pixel"} <= set(assets)
