"""Baselines: predictions without a network, from a constant to a coarse DEM that is free to download.

Each is a function of images (N, 3, H, W) uint8 and their truth (N, H, W) in meters, and predicts meters. Those that use
the truth show what a kind of knowledge is worth; nobody could compute them where the truth is unknown.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core.evaluation.measures import Known, Tally

Predictor = Callable[[Tensor, Tensor], Tensor]


def tile_mean(dem: Tensor) -> Tensor:
    """Mean of each tile's valid pixels: (N, H, W) to (N, 1, 1)."""
    mean = dem.mean((-2, -1), keepdim=True)  # ten times as fast as nanmean, and the same where there is no nodata
    return dem.nanmean((-2, -1), keepdim=True) if mean.isnan().any() else mean


def constant(median: float) -> Predictor:
    """One value everywhere; see :func:`fit`."""
    return lambda rgb, truth: torch.full_like(truth, median)


def color(weights: Tensor) -> Predictor:
    """A linear function of red, green and blue from 0 to 1, with (4,) weights of one and these; see :func:`fit`."""
    first, others = weights[0], weights[1:] / 255
    return lambda rgb, truth: (first + others @ rgb.double().flatten(2)).view_as(truth).to(truth.dtype)


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
    size = 4 + len(targets)  # one, three colors and the targets
    sums = torch.zeros(size, size, dtype=torch.float64)  # of their products
    for rgb, dem in train:
        known = Known(dem)
        values = torch.stack([target(dem) for target in targets.values()])  # (targets, N, H, W)
        for tally, part in zip(tallies.values(), values):
            tally.add(known.chosen(part))
        factors = torch.ones(len(rgb), size, dem[0].numel(), dtype=torch.float64)
        factors[:, 1:4], factors[:, 4:] = rgb.flatten(2), values.movedim(0, 1).flatten(2)
        if not known.whole:
            factors.masked_fill_(~known.valid.flatten(1)[:, None], 0)
        sums += (factors @ factors.mT).sum(0)
    sums[1:4] /= 255  # colors from 0 to 1
    sums[:, 1:4] /= 255
    matrix, products = sums[:4, :4], sums[:4, 4:]
    weights = torch.linalg.lstsq(matrix, products, driver="gelsd").solution  # (4, targets)
    return {
        name: {"constant": constant(tally.median()), "color": color(weights[:, number])}
        for number, (name, tally) in enumerate(tallies.items())
    }


def mean(rgb: Tensor, truth: Tensor) -> Tensor:
    """Each tile's own true mean: its error is that of predicting no relief at all."""
    return tile_mean(truth).expand_as(truth)


def plane(rgb: Tensor, truth: Tensor) -> Tensor:
    """The plane that fits each tile's truth best: its error is that of predicting the tile's tilt alone."""
    down, along = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in truth.shape[1:])
    row_powers, column_powers = (torch.stack([axis**0, axis, axis**2], 1) for axis in (down, along))  # (side, 3)
    rows, columns = torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1])  # powers of row and column in the plane's terms
    moments = row_powers.T @ (~truth.isnan()).double() @ column_powers  # (N, 3, 3)
    matrix = moments[:, rows[:, None] + rows, columns[:, None] + columns]
    target = (row_powers.T @ truth.nan_to_num().double() @ column_powers)[:, rows, columns]
    solution = torch.linalg.lstsq(matrix, target.unsqueeze(2), driver="gelsd").solution  # gelsd: a tile may be empty
    level, south, east = solution.unsqueeze(3).unbind(1)  # (N, 1, 1) each
    return (level + south * down[:, None] + east * along).to(truth.dtype)


def coarse(meters: float, gsd: tuple[float, float]) -> Predictor:
    """A coarse DEM: the truth averaged over cells of about ``meters`` and interpolated back with a cubic kernel.

    A tile holds a whole number of cells, at least one in each direction.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
    """
    def predict(rgb: Tensor, truth: Tensor) -> Tensor:
        rows, columns = (max(round(side * step / meters), 1) for side, step in zip(truth.shape[1:], gsd))
        cells = F.adaptive_avg_pool2d(truth, (rows, columns))
        if cells.isnan().any():
            share = F.adaptive_avg_pool2d((~truth.isnan()).to(truth.dtype), (rows, columns))
            cells = F.adaptive_avg_pool2d(truth.nan_to_num(), (rows, columns)) / share
            cells = torch.where(share > 0, cells, tile_mean(truth))  # cells without elevation
        height, width = truth.shape[1:]
        return _cubic(rows, height, truth.dtype) @ cells @ _cubic(columns, width, truth.dtype).T

    return predict


@cache
def _cubic(cells: int, side: int, dtype: torch.dtype) -> Tensor:
    """The weight of each cell at each pixel, (side, cells); products with it are faster than ``interpolate`` itself."""
    return F.interpolate(torch.eye(cells, dtype=dtype)[None, None], size=(side, cells), mode="bicubic")[0, 0]
