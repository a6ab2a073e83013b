"""Baselines on terrain where their answers are known."""

import numpy as np
import pytest
import torch

from sat2dem_core.evaluation import baselines


def slopes(count: int = 2, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images (N, 3, T, T), and elevation of inclined planes, (N, T, T) meters."""
    draws = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (count, 3, size, size), generator=draws, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return rgb, 500 + 3 * rows - 2 * columns + torch.arange(float(count))[:, None, None] * 100


def fit(rgb, dem) -> dict:
    """Constant and color, fitted to elevation and to half of it, tile by tile."""
    return baselines.fit(zip(rgb.split(1), dem.split(1)), {"whole": lambda dem: dem, "half": lambda dem: dem / 2})


def test_constant_is_the_median_of_all_valid_pixels():
    rgb, dem = slopes()
    dem[0, :10] = torch.nan
    fitted = fit(rgb, dem)
    assert fitted["whole"]["constant"](rgb, dem).unique().item() == pytest.approx(float(np.nanmedian(dem)))
    assert fitted["half"]["constant"](rgb, dem).unique().item() == pytest.approx(float(np.nanmedian(dem / 2)))


def test_color_finds_elevation_that_is_linear_in_color():
    rgb, _ = slopes()
    dem = 1000 + rgb[:, 0] * 2.0 - rgb[:, 2] * 0.5
    holed = dem.clone()
    holed[0, 3:9] = torch.nan
    fitted = fit(rgb, holed)
    torch.testing.assert_close(fitted["whole"]["color"](rgb, holed), dem, rtol=0, atol=0.01)
    torch.testing.assert_close(fitted["half"]["color"](rgb, holed), dem / 2, rtol=0, atol=0.01)


def test_training_tiles_are_read_once():
    rgb, dem = slopes()
    reads = []
    pairs = ((image, reads.append(len(image)) or elevation) for image, elevation in zip(rgb.split(1), dem.split(1)))
    baselines.fit(pairs, {name: lambda dem: dem for name in "abc"})
    assert reads == [1, 1]


def test_plane_is_exact_on_planes_with_holes_and_level_on_symmetric_waves():
    rgb, dem = slopes()
    holed = dem.clone()
    holed[0, 5:20, 7:] = torch.nan
    torch.testing.assert_close(baselines.plane(rgb, holed), dem, rtol=0, atol=0.01)
    wave = torch.cos(2 * torch.pi * (torch.arange(32.0) + 0.5) / 16).expand(1, 32, 32)
    torch.testing.assert_close(baselines.plane(rgb[:1], wave), torch.zeros_like(wave), rtol=0, atol=1e-5)


def test_tile_without_elevation_leaves_the_others_finite():
    rgb, dem = slopes()
    dem[0] = torch.nan
    for predict in (baselines.mean, baselines.plane, baselines.coarse(300, (30, 30))):
        assert predict(rgb, dem)[1].isfinite().all()


@pytest.mark.parametrize(("meters", "cells"), [(90, (11, 21)), (320, (3, 6)), (5000, (1, 1))])
def test_coarse_dem_keeps_broad_forms_and_loses_fine_ones(meters, cells):
    rgb, dem = slopes()
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


def test_coarse_dem_does_not_take_a_hole_for_sea_level():
    rgb, dem = slopes()
    dem[:, 8:16, 8:16] = torch.nan
    assert float(baselines.coarse(480, (30, 30))(rgb, dem).min()) > 400
