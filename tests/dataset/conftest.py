"""Stores that several tests of the wing read."""

import pytest
from catalog import BORDER_REGION
from made_up import made_up, square

from sat2dem_core.dataset.building import assemble, build
from sat2dem_core.dataset.catalogs import Request, source


@pytest.fixture(scope="session")
def request_(api):
    """A request to the API on localhost."""
    return Request("2023-07-01", "2023-07-31", source("sentinel-2", url=api), source("glo-30", url=api))


@pytest.fixture(scope="session")
def built(tmp_path_factory, request_):
    """A store of ``catalog.BORDER`` that nothing interrupted; tests only read it."""
    return build(tmp_path_factory.mktemp("built") / "border.zarr", BORDER_REGION, request_, progress=False)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A store of 64 tiles in a square; tests only read it."""
    jobs = {square(number).id: number for number in range(64)}
    attrs = {"sensor": "landsat", "overlaps": dict.fromkeys(jobs, "")}
    return assemble(tmp_path_factory.mktemp("many") / "many.zarr", jobs, made_up, {}, attrs, progress=False)
