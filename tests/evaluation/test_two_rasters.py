"""One DEM file measured against another."""

import numpy as np
import pytest
import rasterio
import torch

from sat2dem_core.errors import NoTiles, UnreadableRaster, WrongShape
from sat2dem_core.evaluation.two_rasters import score


def hills(size: int) -> torch.Tensor:
    """Made-up terrain (size, size), meters, tens of pixels wide."""
    rough = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return 1500 + 300 * torch.nn.functional.interpolate(rough, size, mode="bicubic")[0, 0]


@pytest.fixture
def raster(tmp_path):
    def write(name: str, dem: torch.Tensor, **changes):
        transform = rasterio.Affine(30, 0, 400_000, 0, -30, 4_500_000)
        height, width = dem.shape
        profile = {
            "driver": "GTiff", "dtype": "float32", "count": 1, "height": height, "width": width, "nodata": -9999,
            "crs": "EPSG:32630", "transform": transform,
        }
        with rasterio.open(tmp_path / name, "w", **profile | changes) as file:
            file.write(np.nan_to_num(dem.numpy(), nan=-9999), 1)
        return tmp_path / name

    return write


def test_two_rasters_are_measured_window_by_window(raster):
    truth = hills(100)
    truth[:3] = torch.nan
    other = truth + 5
    paths = raster("ours.tif", other), raster("truth.tif", truth)
    for window in (512, 64):
        result = score(*paths, window=window).result()
        assert result["bias"] == pytest.approx(5, abs=1e-3) and result["slope MAE"] == pytest.approx(0, abs=1e-3)
        assert result["pixels"] == 97 * 100


def test_rasters_that_cannot_be_compared_are_refused(raster, tmp_path):
    dem = hills(40)
    truth = raster("truth.tif", dem)
    shifted = rasterio.Affine(30, 0, 400_030, 0, -30, 4_500_000)
    others = (
        raster("a.tif", dem, transform=shifted), raster("b.tif", dem, crs="EPSG:32631"), raster("c.tif", dem[:30]),
    )
    for other in others:
        with pytest.raises(WrongShape, match=f"{other.name} and .*truth.tif lie on different grids: resample one onto"):
            score(other, truth)
    with pytest.raises(WrongShape, match="prediction is NaN where the truth is known"):
        score(raster("holes.tif", dem.masked_fill(dem > 1500, torch.nan)), truth)
    with pytest.raises(UnreadableRaster, match="missing.tif cannot be read"):
        score(tmp_path / "missing.tif", truth)
    with pytest.raises(NoTiles, match="nothing to score"):
        score(truth, raster("empty.tif", dem * torch.nan)).result()
