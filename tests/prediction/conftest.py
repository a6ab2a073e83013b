"""Predictions that several tests read: made once."""

import numpy as np
import pytest
import rasterio

from sat2dem_core.prediction.pipeline import predict


def read_bands(path) -> np.ndarray:
    """All bands of a raster, (bands, H, W), NaN for nodata."""
    with rasterio.open(path) as file:
        return file.read(masked=True).filled(np.nan)


@pytest.fixture(scope="session")
def bands():
    return read_bands


@pytest.fixture(scope="session")
def whole(tmp_path_factory, hills, tiny_weights) -> np.ndarray:
    """The prediction of the hills in one go, (3, 128, 160), with relative heights; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    hills.rgb.rio.to_raster(folder / "hills.tif")
    made = predict(folder / "hills.tif", folder / "dem.tif", tiny_weights, progress=False, caution=False)
    values = read_bands(made.path)
    values.setflags(write=False)
    return values


@pytest.fixture
def made(tmp_path, hills_image, tiny_weights):
    """``made(name, **settings)``: predict the hills; returns what ``predict`` returns."""
    return lambda name="dem.tif", **settings: predict(
        hills_image, tmp_path / name, tiny_weights, **{"progress": False, "caution": False} | settings
    )
