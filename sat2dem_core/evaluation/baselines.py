"""What a prediction has to beat: answers that need no network, from nothing at all to a coarse DEM that is free.

Each is a function of images (N, 3, H, W) uint8 and their truth (N, H, W) in meters, and answers in meters. Those that
look at the truth are bounds on what a kind of knowledge is worth, no rivals that a user could run.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core.evaluation.measures import Tally

Predictor = Callable[[Tensor, Tensor], Tensor]


def tile_mean(dem: Tensor) -> Tensor:
    """Mean of each tile's valid pixels: (N, H, W) to (N, 1, 1)."""
    return dem.nanmean((-2, -1), keepdim=True)


def constant(train: Iterable[tuple[Tensor, Tensor]]) -> Predictor:
    """The median of the training tiles, of pairs of images and elevation."""
    tally = Tally(reach=10_000.0)
    for _, dem in train:
        tally.add(dem[~dem.isnan()])
    median = tally.median()
    return lambda rgb, truth: torch.full_like(truth, median)


def color(train: Iterable[tuple[Tensor, Tensor]]) -> Predictor:
    """Elevation as a linear function of red, green and blue, fitted on the training tiles by least squares."""
    matrix, target = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for rgb, dem in train:
        known = ~dem.isnan()
        colors = _colors(rgb)[known]
        matrix, target = matrix + colors.T @ colors, target + colors.T @ dem[known].double()
    weights = torch.linalg.lstsq(matrix, target.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    return lambda rgb, truth: (_colors(rgb) @ weights).to(truth.dtype)


def _colors(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 to (N, H, W, 4): one and the three colors, 0 to 1."""
    scaled = rgb.double().movedim(1, -1) / 255
    return torch.cat([torch.ones_like(scaled[..., :1]), scaled], -1)


def mean(rgb: Tensor, truth: Tensor) -> Tensor:
    """Each tile's own true mean: the error that is left when relief is not predicted at all."""
    return tile_mean(truth).expand_as(truth)


def plane(rgb: Tensor, truth: Tensor) -> Tensor:
    """The plane that fits each tile's truth best: the error that is left when only the tile's tilt is predicted."""
    axes = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in truth.shape[1:])
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    basis = torch.stack([torch.ones_like(rows), rows, columns], -1).flatten(0, 1)  # (H W, 3)
    valid = (~truth.isnan()).flatten(1).double()  # (N, H W)
    matrix = torch.einsum("np,pi,pj->nij", valid, basis, basis)
    target = torch.einsum("np,pi->ni", truth.nan_to_num().flatten(1).double(), basis)
    fit = torch.linalg.lstsq(matrix, target.unsqueeze(2), driver="gelsd").solution  # gelsd: a tile may be empty
    return (basis @ fit).squeeze(2).view_as(truth).to(truth.dtype)


def coarse(meters: float, gsd: tuple[float, float]) -> Predictor:
    """The truth averaged over cells of about so many meters, as many as fit a tile, and back by cubic interpolation.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
    """
    def predict(rgb: Tensor, truth: Tensor) -> Tensor:
        rows, columns = (max(round(side * step / meters), 1) for side, step in zip(truth.shape[1:], gsd))
        valid = (~truth.isnan()).to(truth.dtype)
        share = F.adaptive_avg_pool2d(valid, (rows, columns))
        cell = F.adaptive_avg_pool2d(truth.nan_to_num(), (rows, columns)) / share
        cell = torch.where(share > 0, cell, tile_mean(truth))  # a cell without elevation
        return F.interpolate(cell.unsqueeze(1), size=truth.shape[1:], mode="bicubic").squeeze(1)

    return predict
