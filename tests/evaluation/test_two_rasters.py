"""One DEM file measured against another."""

import numpy as np
import pytest
import rasterio
import torch
from pyproj import Geod

from sat2dem_core.errors import NoElevation, NoOverlap, UnreadableRaster, WrongShape
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
        measures, share = score(*paths, window=window)
        result = measures.result()
        assert share == 1
        assert result["bias"] == pytest.approx(5, abs=1e-3) and result["slope MAE"] == pytest.approx(0, abs=1e-3)
        assert result["pixels"] == 97 * 100


def test_rasters_that_cannot_be_compared_are_refused(raster, tmp_path):
    dem = hills(40)
    truth = raster("truth.tif", dem)
    shifted, far = (rasterio.Affine(30, 0, 400_000 + dx, 0, -30, 4_500_000) for dx in (10, 30_000))
    for other, fault in (
        (raster("a.tif", dem, transform=shifted), "have pixels that do not coincide"),
        (raster("b.tif", dem, crs="EPSG:32631"), "have different coordinate reference systems"),
    ):
        with pytest.raises(WrongShape, match=f"{other.name} and .*truth.tif {fault}: resample one onto"):
            score(other, truth)
    with pytest.raises(NoOverlap, match="do not overlap"):
        score(raster("far.tif", dem, transform=far), truth)
    with pytest.raises(UnreadableRaster, match="missing.tif does not exist"):
        score(tmp_path / "missing.tif", truth)
    with pytest.raises(NoElevation, match="empty.tif is all nodata"):
        score(truth, raster("empty.tif", dem * torch.nan))
    left, right = (dem.clone() for _ in range(2))
    left[:, 20:], right[:, :20] = torch.nan, torch.nan
    with pytest.raises(NoOverlap, match="no pixel of elevation in common"):
        score(raster("left.tif", left), raster("right.tif", right))


def test_common_pixels_are_scored_and_their_share_told(raster):
    dem = hills(40)
    holes, part = dem.clone() + 1, dem[8:, 4:] + 2
    holes[:10] = torch.nan
    truth = raster("truth.tif", dem)
    measures, share = score(raster("holes.tif", holes), truth)
    assert share == 0.75 and measures.result()["MAE"] == pytest.approx(1)
    inside = rasterio.Affine(30, 0, 400_120.2, 0, -30, 4_499_760)  # 0.2 m are less than a hundredth of a pixel
    measures, share = score(raster("part.tif", part, transform=inside), truth)
    assert share == 1 and measures.result()["pixels"] == 32 * 36 and measures.result()["bias"] == pytest.approx(2)


def test_slope_follows_the_pixel_size_of_each_row(raster):
    """A DEM in degrees from 0° to 60° N that rises 10 m a pixel to the east: half as wide, twice as steep."""
    height = 120
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.5, 0, 5, 0, -0.5, 60)}
    east = torch.arange(40.0).repeat(height, 1) * 1000
    level = torch.zeros(height, 40)
    measures, _ = score(raster("level.tif", level, **degrees), raster("east.tif", east / 10, **degrees))
    rows = 60 - 0.5 * (np.arange(1, height - 1) + 0.5)
    geod = Geod(ellps="WGS84")
    width = np.array([geod.inv(0, lat, 0.5, lat)[2] for lat in rows])
    assert measures.result()["slope MAE"] == pytest.approx((100 * 100 / width).mean(), rel=1e-3)


def test_scale_feet_and_voids_of_either_raster_are_understood(raster):
    dem = hills(40)
    truth = raster("truth.tif", dem)
    feet = raster("feet.tif", dem / 0.3048)
    voids = dem.clone()
    voids[:4] = -32768
    with rasterio.open(feet, "r+") as file:
        file.units = ("ft",)
    assert score(feet, truth).measures.result()["MAE"] < 1e-3
    stored = raster("stored.tif", (dem - 1000) * 10)
    with rasterio.open(stored, "r+") as file:
        file.scales, file.offsets = (0.1,), (1000.0,)
    assert score(truth, stored).measures.result()["MAE"] < 1e-3
    with pytest.warns(UserWarning, match="160 values of -32768 .* count as nodata"):
        measures, share = score(raster("voids.tif", voids, nodata=None), truth)
    assert share == 0.9 and measures.result()["MAE"] == 0


def test_south_up_rasters_and_other_meridians_are_the_same_place(raster):
    dem = hills(40)
    truth = raster("truth.tif", dem)
    up = rasterio.Affine(30, 0, 400_000, 0, 30, 4_500_000 - 40 * 30)
    turned = raster("up.tif", dem.flip(0), transform=up)
    for pair in ((turned, truth), (truth, turned)):
        measures, share = score(*pair)
        assert share == 1 and measures.result()["MAE"] < 1e-3
    west, east = (
        raster(f"{lon}.tif", dem, crs="EPSG:4326", transform=rasterio.Affine(0.01, 0, lon, 0, -0.01, 40))
        for lon in (-105.0, 255.0)
    )
    assert score(west, east).measures.result()["MAE"] == 0


def test_another_vertical_datum_is_named(raster):
    dem = hills(40)
    paths = [raster(f"{code}.tif", dem, crs=f"EPSG:32630+{code}") for code in (5773, 3855)]
    with pytest.warns(UserWarning, match=r"5773.tif counts from EGM96 height and .*3855.tif from EGM2008 height"):
        assert score(*paths).share == 1
