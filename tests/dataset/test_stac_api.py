"""The STAC API that other tests search finds exactly what a query describes."""

import math

import pystac_client
import pytest
import shapely
from catalog import PLACE

POINT = PLACE.footprint.centroid
SQUARE = list(POINT.buffer(0.01).bounds)


def lies_at(item: dict, geometry: shapely.Geometry) -> bool:
    return shapely.intersects(shapely.geometry.shape(item["geometry"]), geometry)


def cloud(item: dict) -> float:
    """Percent; of an item without, more than any."""
    return item["properties"].get("eo:cloud_cover", math.inf)


@pytest.fixture(params=["GET", "POST"])
def search(api, request):
    """``search(...)``: the identifiers of the items found."""
    client = pystac_client.Client.open(api)
    return lambda **query: {item.id for item in client.search(method=request.param, **query).items()}


@pytest.mark.parametrize(("query", "described"), [
    ({}, lambda item: True),
    ({"bbox": SQUARE}, lambda item: lies_at(item, shapely.box(*SQUARE))),
    ({"intersects": shapely.geometry.mapping(POINT)}, lambda item: lies_at(item, POINT)),
    ({"datetime": "2023-06-10/2023-06-30"}, lambda item: "2023-06-10" <= item["properties"]["datetime"] < "2023-06-31"),
    ({"collections": ["cop-dem-glo-30"]}, lambda item: item["collection"] == "cop-dem-glo-30"),
    ({"query": {"eo:cloud_cover": {"lt": 30}}}, lambda item: cloud(item) < 30),
    ({"filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 30]}}, lambda item: cloud(item) <= 30),
])
def test_search_finds_what_the_query_describes_and_nothing_else(search, world, query, described):
    expected = {item["id"] for item in world.items if described(item)}
    assert search(**query) == expected
    assert expected and (not query or len(expected) < len(world.items))


def test_search_finds_nothing_where_there_is_nothing(search):
    assert search(bbox=[-104.6, 42, -104.5, 43]) == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_next_links_lead_through_all_pages(api, world, method):
    pages = pystac_client.Client.open(api).search(method=method, limit=5).pages()
    full, rest = divmod(len(world.items), 5)
    assert [len(page) for page in pages] == [5] * full + [rest] * (rest > 0)


def test_items_come_back_as_they_were_given(api, world):
    given = world.items[0]
    items = pystac_client.Client.open(api).search(ids=[given["id"]]).items_as_dicts()
    assert [item | {"links": []} for item in items] == [given]
