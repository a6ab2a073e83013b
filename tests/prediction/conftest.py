"""Predictions that several tests read: made once."""

import numpy as np
import pytest
import rasterio

from sat2dem_core.prediction.pipeline import predict


def beside(path) -> dict:
    """Arguments of ``predict`` for the interval and the distance in files next to the DEM."""
    return {name: path.with_name(f"{path.stem}-{name}.tif") for name in ("interval", "domain")}


def read_bands(path) -> np.ndarray:
    """Elevation, interval and distance, (3, H, W), NaN for nodata."""
    values = []
    for name in (path, *beside(path).values()):
        with rasterio.open(name) as file:
            assert file.count == 1
            values.append(file.read(1, masked=True).filled(np.nan))
    return np.stack(values)


@pytest.fixture(scope="session")
def bands():
    return read_bands


@pytest.fixture(scope="session")
def all_files():
    """``predict`` with the interval and the distance next to the DEM, without progress bars or caution."""

    def make(image, out, *weights, **settings):
        return predict(image, out, *weights, **{"progress": False, "caution": False} | beside(out) | settings)

    return make


@pytest.fixture(scope="session")
def whole(tmp_path_factory, hills, tiny_weights, all_files) -> np.ndarray:
    """The prediction of the hills in one go, (3, 128, 160), with relative heights; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    hills.rgb.rio.to_raster(folder / "hills.tif")
    made = all_files(folder / "hills.tif", folder / "dem.tif", tiny_weights)
    values = read_bands(made.path)
    values.setflags(write=False)
    return values


@pytest.fixture
def made(tmp_path, hills_image, tiny_weights, all_files):
    """``made(name, **settings)``: predict the hills; returns what ``predict`` returns."""

    def make(name="dem.tif", **settings):
        alone = {"interval": None, "domain": None} if not name.endswith(".tif") else {}
        return all_files(hills_image, tmp_path / name, tiny_weights, **alone | settings)

    return make
