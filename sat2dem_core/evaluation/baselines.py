"""Baselines: predictions without a network, from a constant to a coarse DEM that is free to download.

Each is a function of images (N, 3, H, W) uint8 and their truth (N, H, W) in meters, and predicts meters. Those that use
the truth show what a kind of knowledge is worth; nobody could compute them where the truth is unknown.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core.evaluation.measures import Tally

Predictor = Callable[[Tensor, Tensor], Tensor]


def tile_mean(dem: Tensor) -> Tensor:
    """Mean of each tile's valid pixels: (N, H, W) to (N, 1, 1)."""
    return dem.nanmean((-2, -1), keepdim=True)


def constant(median: float) -> Predictor:
    """One value everywhere; see :func:`fit`."""
    return lambda rgb, truth: torch.full_like(truth, median)


def color(weights: Tensor) -> Predictor:
    """A linear function of red, green and blue, with (4,) weights of one and the three colors; see :func:`fit`."""
    return lambda rgb, truth: (_colors(rgb) @ weights).to(truth.dtype)


def fit(
    train: Iterable[tuple[Tensor, Tensor]], targets: Mapping[str, Callable[[Tensor], Tensor]]
) -> dict[str, dict[str, Predictor]]:
    """Fit ``constant`` (the median) and ``color`` (least squares) for several targets, in one pass over training tiles.

    Args:
        train: pairs of images (N, 3, H, W) uint8 and elevation (N, H, W) in meters, NaN for nodata.
        targets: for each name, the function of elevation that is to be predicted; it keeps shape and nodata.

    Returns:
        For each target, its ``constant`` and its ``color``.
    """
    tallies = {name: Tally(reach=10_000.0) for name in targets}
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    products = torch.zeros(4, len(targets), dtype=torch.float64)
    for rgb, dem in train:
        known = ~dem.isnan()
        colors = _colors(rgb)[known]  # (pixels, 4)
        values = [target(dem)[known] for target in targets.values()]
        for tally, part in zip(tallies.values(), values):
            tally.add(part)
        matrix += colors.T @ colors
        products += colors.T @ torch.stack(values, 1).double()
    weights = torch.linalg.lstsq(matrix, products, driver="gelsd").solution  # (4, targets)
    return {
        name: {"constant": constant(tally.median()), "color": color(weights[:, number])}
        for number, (name, tally) in enumerate(tallies.items())
    }


def _colors(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 to (N, H, W, 4): one and the three colors, 0 to 1."""
    scaled = rgb.double().movedim(1, -1) / 255
    return torch.cat([torch.ones_like(scaled[..., :1]), scaled], -1)


def mean(rgb: Tensor, truth: Tensor) -> Tensor:
    """Each tile's own true mean: its error is that of predicting no relief at all."""
    return tile_mean(truth).expand_as(truth)


def plane(rgb: Tensor, truth: Tensor) -> Tensor:
    """The plane that fits each tile's truth best: its error is that of predicting the tile's tilt alone."""
    axes = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in truth.shape[1:])
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    basis = torch.stack([torch.ones_like(rows), rows, columns], -1).flatten(0, 1)  # (H W, 3)
    valid = (~truth.isnan()).flatten(1).double()  # (N, H W)
    matrix = torch.einsum("np,pi,pj->nij", valid, basis, basis)
    target = torch.einsum("np,pi->ni", truth.nan_to_num().flatten(1).double(), basis)
    solution = torch.linalg.lstsq(matrix, target.unsqueeze(2), driver="gelsd").solution  # gelsd: a tile may be empty
    return (basis @ solution).squeeze(2).view_as(truth).to(truth.dtype)


def coarse(meters: float, gsd: tuple[float, float]) -> Predictor:
    """A coarse DEM: the truth averaged over cells of about ``meters`` and interpolated back with a cubic kernel.

    A tile holds a whole number of cells, at least one in each direction.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
    """
    def predict(rgb: Tensor, truth: Tensor) -> Tensor:
        rows, columns = (max(round(side * step / meters), 1) for side, step in zip(truth.shape[1:], gsd))
        valid = (~truth.isnan()).to(truth.dtype)
        share = F.adaptive_avg_pool2d(valid, (rows, columns))
        cells = F.adaptive_avg_pool2d(truth.nan_to_num(), (rows, columns)) / share
        cells = torch.where(share > 0, cells, tile_mean(truth))  # cells without elevation
        return F.interpolate(cells.unsqueeze(1), size=truth.shape[1:], mode="bicubic").squeeze(1)

    return predict
