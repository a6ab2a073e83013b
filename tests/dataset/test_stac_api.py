"""The STAC API that other tests ask really searches."""

import pystac_client
import pytest
from stac_api import missing, stac_api

CLOUDS = {"2024-01-10": 5, "2024-02-10": 40, "2024-03-10": 90}  # percent, of one collection; another knows no clouds


def collection(name: str) -> dict:
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    return {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": name, "license": "other",
            "extent": extent, "links": []}


def item(day: str, west: float, collection: str = "images", **properties) -> dict:
    """One degree of land north of 40."""
    east = west + 1
    ring = [[west, 40], [east, 40], [east, 41], [west, 41], [west, 40]]
    return {"type": "Feature", "stac_version": "1.0.0", "id": f"{collection}-{day}", "collection": collection,
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, 40, east, 41], "links": [],
            "properties": {"datetime": f"{day}T18:00:00Z"} | properties,
            "assets": {"red": {"href": f"http://127.0.0.1:9/{day}.tif", "eo:bands": [{"name": "B04"}]}}}


ITEMS = [item(day, -105 + 2 * n, **{"eo:cloud_cover": cover}) for n, (day, cover) in enumerate(CLOUDS.items())]
ITEMS.append(item("2021-04-22", -105, "elevation"))


@pytest.fixture(scope="module")
def url(require_system):
    if lacking := missing():
        require_system(lacking)
    with stac_api([collection("images"), collection("elevation")], ITEMS) as url:
        yield url


@pytest.fixture(params=["GET", "POST"])
def search(url, request):
    """``search(...)``: the identifiers of what is found."""
    client = pystac_client.Client.open(url)
    return lambda **query: {found.id for found in client.search(method=request.param, **query).items()}


@pytest.mark.parametrize(("query", "found"), [
    ({}, {"images-2024-01-10", "images-2024-02-10", "images-2024-03-10", "elevation-2021-04-22"}),
    ({"bbox": [-104.6, 40.2, -104.5, 40.3]}, {"images-2024-01-10", "elevation-2021-04-22"}),
    ({"bbox": [-104.6, 42, -104.5, 43]}, set()),
    ({"intersects": {"type": "Point", "coordinates": [-102.5, 40.5]}}, {"images-2024-02-10"}),
    ({"datetime": "2024-02-01/2024-12-31"}, {"images-2024-02-10", "images-2024-03-10"}),
    ({"collections": ["elevation"]}, {"elevation-2021-04-22"}),
    ({"query": {"eo:cloud_cover": {"lt": 40}}}, {"images-2024-01-10"}),
    ({"filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 40]}}, {"images-2024-01-10", "images-2024-02-10"}),
])
def test_search_finds_what_was_asked_for_and_nothing_else(search, query, found):
    assert search(**query) == found


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_next_links_lead_through_all_pages(url, method):
    pages = pystac_client.Client.open(url).search(method=method, limit=3).pages()
    assert [len(page) for page in pages] == [3, 1]


def test_items_come_back_as_they_were_given(url):
    found = pystac_client.Client.open(url).search(ids=["images-2024-01-10"]).items_as_dicts()
    assert [one | {"links": []} for one in found] == ITEMS[:1]
