"""What a prediction has to beat, each on ground where the answer is known."""

import numpy as np
import pytest
import torch

from sat2dem_core.evaluation import baselines


def ground(count: int = 2, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and elevation of planes and waves, (N, T, T)."""
    draws = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (count, 3, size, size), generator=draws, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return rgb, 500 + 3 * rows - 2 * columns + torch.arange(float(count))[:, None, None] * 100


def test_constant_is_the_median_of_all_that_is_known():
    rgb, dem = ground()
    dem[0, :10] = torch.nan
    predict = baselines.constant([(rgb[:1], dem[:1]), (rgb[1:], dem[1:])])
    assert predict(rgb, dem).unique().item() == pytest.approx(float(np.nanmedian(dem)))


def test_color_finds_elevation_that_is_linear_in_color_and_no_more():
    rgb, _ = ground()
    dem = 1000 + rgb[:, 0] * 2.0 - rgb[:, 2] * 0.5
    holed = dem.clone()
    holed[0, 3:9] = torch.nan
    predict = baselines.color([(rgb[:1], holed[:1]), (rgb[1:], holed[1:])])
    torch.testing.assert_close(predict(rgb, holed), dem, rtol=0, atol=0.01)


def test_plane_is_exact_on_planes_whatever_is_missing_and_level_on_symmetric_waves():
    rgb, dem = ground()
    holed = dem.clone()
    holed[0, 5:20, 7:] = torch.nan
    torch.testing.assert_close(baselines.plane(rgb, holed), dem, rtol=0, atol=0.01)
    wave = torch.cos(2 * torch.pi * (torch.arange(32.0) + 0.5) / 16).expand(1, 32, 32)
    torch.testing.assert_close(baselines.plane(rgb[:1], wave), torch.zeros_like(wave), rtol=0, atol=1e-5)


def test_tile_without_elevation_spoils_no_other():
    rgb, dem = ground()
    dem[0] = torch.nan
    for predict in (baselines.mean, baselines.plane, baselines.coarse(300, (30, 30))):
        assert predict(rgb, dem)[1].isfinite().all()


@pytest.mark.parametrize(("meters", "cells"), [(90, (11, 21)), (320, (3, 6)), (5000, (1, 1))])
def test_coarse_dem_keeps_what_is_broad_and_loses_what_is_fine(meters, cells):
    rgb, dem = ground()
    gsd = (30.0, 60.0)
    answer = baselines.coarse(meters, gsd)(rgb, dem)
    if cells == (1, 1):
        torch.testing.assert_close(answer, dem.mean((1, 2), keepdim=True).expand_as(dem))
    else:
        inner = slice(32 // cells[0] + 1, -32 // cells[0] - 1)
        assert float((answer - dem)[:, inner, inner].abs().max()) < 3 * 32 / cells[0]
        assert float((answer.mean((1, 2)) - dem.mean((1, 2))).abs().max()) < 1
    noise = 50 * torch.randn(dem.shape, generator=torch.Generator().manual_seed(1))
    smoothed = baselines.coarse(meters, gsd)(rgb, dem + noise) - answer
    assert float(smoothed.std()) < 60 / (32 * 32 / cells[0] / cells[1]) ** 0.5


def test_hole_is_no_sea_level():
    rgb, dem = ground()
    dem[:, 8:16, 8:16] = torch.nan
    assert float(baselines.coarse(480, (30, 30))(rgb, dem).min()) > 400
