"""Measures of elevation error that DEM makers use, in one pass over any number of tiles and in bounded memory.

Errors are prediction minus truth. A median needs all errors at once: up to a million of them are kept and give exact
quantiles; beyond that, a histogram replaces them and quantiles are interpolated within its bins.
"""

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core import terrain
from sat2dem_core.errors import NoTiles, WrongShape

KEPT = 2**20  # errors that are kept before a histogram replaces them
CLASSES = {
    "slope": (0.0, 12.5, 25.0, 50.0, math.inf),  # percent, of the truth (DEMIX, arXiv 2302.08425)
    "elevation": (-math.inf, 0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, math.inf),  # meters
    "relief": (0.0, 100.0, 300.0, 600.0, 1200.0, math.inf),  # meters, of the tile
}


def check_pair(prediction: Any, truth: Any) -> None:
    """Check that tiles (N, H, W), two tensors or two arrays, can be compared; NaN in ``truth`` is nodata.

    Raises:
        WrongShape: they lie on different grids, or a prediction is NaN where there is a truth.
    """
    if prediction.shape != truth.shape or truth.ndim != 3:
        raise WrongShape(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} lie on different grids: "
            "resample one onto the other first"
        )
    if ((prediction != prediction) & (truth == truth)).any():  # NaN alone differs from itself
        raise WrongShape(
            "a prediction is NaN where the truth is known: predict these pixels, or mask them in the truth"
        )


class Tally:
    """Bias, MAE, RMSE, STD, NMAD and LE90 of a stream of errors, in one group or several.

    Args:
        groups: how many there are.
        reach, step: range and bin width of the histogram; errors beyond ±``reach`` count in its outermost bins.
    """

    def __init__(self, groups: int = 1, reach: float = 5000.0, step: float = 0.01):
        self.groups, self.reach, self.step, self.bins = groups, reach, step, round(2 * reach / step)
        self.sums = np.zeros((4, groups))  # of ones, errors, absolute and squared errors
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.counts: np.ndarray | None = None

    def add(self, errors: Tensor, group: Tensor | None = None) -> None:
        """Add errors (N,), none of them NaN, and the number of each one's group, by default 0."""
        values, doubles = errors.float().numpy(), errors.double().numpy()
        groups = np.zeros(len(values), np.uint8) if group is None else group.numpy().astype(np.uint8)
        if self.groups == 1:
            self.sums[:, 0] += len(doubles), doubles.sum(), np.abs(doubles).sum(), doubles @ doubles
        else:
            for row, weights in enumerate((None, doubles, np.abs(doubles), doubles**2)):
                self.sums[row] += np.bincount(groups, weights, self.groups)
        self.kept.append((values, groups))
        if self.counts is not None or self.sums[0].sum() > KEPT:
            for part in self.kept:
                self._count(*part)
            self.kept = []

    def _count(self, values: np.ndarray, groups: np.ndarray) -> None:
        if self.counts is None:
            self.counts = np.zeros((self.groups, self.bins), np.int64)
        bins = ((values + self.reach) / self.step).clip(0, self.bins - 1).astype(np.int64)
        bins += groups.astype(np.int64) * self.bins
        np.add.at(self.counts.reshape(-1), bins, 1)  # np.bincount would walk through all bins each time

    def median(self, group: int = 0) -> float:
        """Of a group's errors."""
        if self.counts is None:
            return float(np.median(self._values(group)))
        shares, edges = self._distribution(group)
        return float(np.interp(0.5, shares, edges))

    def spread(self, share: float, middle: float = 0.0, group: int = 0) -> float:
        """The distance from ``middle`` within which that share of the errors lies."""
        if self.counts is None:
            return float(np.quantile(np.abs(self._values(group) - middle), share))
        shares, edges = self._distribution(group)
        lower, upper = 0.0, 2 * self.reach
        for _ in range(60):  # bisection: the share within a distance grows with the distance
            distance = (lower + upper) / 2
            low, high = np.interp((middle - distance, middle + distance), edges, shares)
            lower, upper = (distance, upper) if high - low < share else (lower, distance)
        return distance

    def _values(self, group: int) -> np.ndarray:
        return np.concatenate([values[groups == group] for values, groups in self.kept]).astype(np.float64)

    def _distribution(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Shares of errors below the edges of the histogram."""
        assert self.counts is not None
        shares = np.concatenate([[0], np.cumsum(self.counts[group])]) / self.sums[0, group]
        return shares, np.linspace(-self.reach, self.reach, self.bins + 1)

    def result(self, group: int = 0) -> dict[str, float | None]:
        """All measures of a group; each is None where the group has no errors.

        NMAD is 1.4826 times the median distance from the median error. LE90 is the distance from zero within which 90 %
        of the errors lie (Höhle and Höhle 2009, doi 10.1016/j.isprsjprs.2009.02.003).
        """
        count, total, absolute, squared = map(float, self.sums[:, group])
        if not count:
            return dict.fromkeys(("bias", "MAE", "RMSE", "STD", "NMAD", "LE90")) | {"pixels": 0}
        bias = total / count
        return {
            "bias": bias, "MAE": absolute / count, "RMSE": math.sqrt(squared / count),
            "STD": math.sqrt(max(squared / count - bias**2, 0.0)),
            "NMAD": 1.4826 * self.spread(0.5, self.median(group), group), "LE90": self.spread(0.9, 0.0, group),
            "pixels": int(count),
        }


class Mean:
    """Mean of a stream of tiles' values, without those that are NaN or infinite."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, values: Tensor) -> None:
        finite = values[values.isfinite()]
        self.total, self.count = self.total + float(finite.double().sum()), self.count + len(finite)

    def result(self) -> float | None:
        return self.total / self.count if self.count else None


class Truth:
    """True elevation of tiles, with everything that is computed once for all predictions of it.

    Args:
        dem: (N, H, W) meters, NaN for nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters; see :func:`terrain.gradient`.
        water: (N, H, W) bool, pixels to leave out.
        elevation: (N, H, W) meters, by which pixels fall into the classes of elevation; by default ``dem``.
    """

    def __init__(
        self, dem: Tensor, gsd: tuple[terrain.Side, terrain.Side], water: Tensor | None = None,
        elevation: Tensor | None = None,
    ):
        dem = dem.float()
        self.gsd, self.elevation = gsd, dem if elevation is None else elevation
        self.dem = dem if water is None else dem.masked_fill(water, torch.nan)

    @cached_property
    def valid(self) -> Tensor:
        return ~self.dem.isnan()

    @cached_property
    def relief(self) -> Tensor:
        """Highest minus lowest pixel of each tile, (N,) meters; negative infinity where there is none."""
        highest = self.dem.masked_fill(~self.valid, -math.inf).amax((1, 2))
        return highest - self.dem.masked_fill(~self.valid, math.inf).amin((1, 2))

    @cached_property
    def slope(self) -> Tensor:
        return terrain.slope(self.dem, self.gsd)

    @cached_property
    def aspect(self) -> Tensor:
        return terrain.aspect(self.dem, self.gsd)

    @cached_property
    def roughness(self) -> Tensor:
        return terrain.roughness(self.dem)

    @cached_property
    def classes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """For each of ``CLASSES``: which pixels have a class, (N, H, W) bool, and its number, (pixels,)."""
        by_pixel = {
            "slope": self.slope, "elevation": self.elevation, "relief": self.relief[:, None, None].expand_as(self.dem)
        }
        known = {kind: self.valid & ~values.isnan() for kind, values in by_pixel.items()}
        inner_edges = {kind: torch.tensor(CLASSES[kind][1:-1]) for kind in by_pixel}
        return {
            kind: (known[kind], torch.bucketize(values[known[kind]], inner_edges[kind], right=True))
            for kind, values in by_pixel.items()
        }

    @cached_property
    def pixels(self) -> Tensor:
        """Valid pixels of each tile, (N,)."""
        return self.valid.sum((1, 2))

    @cached_property
    def sums(self) -> tuple[float, float]:
        """Of all valid elevations, and of their squares."""
        known = self._known
        return float(known.sum((1, 2)).sum()), float(known.square().sum((1, 2)).sum())

    @cached_property
    def deviations(self) -> Tensor:
        """Sum of squared deviations from each tile's mean, (N,) m²."""
        known = self._known
        means = known.sum((1, 2)) / self.pixels
        return (known - means[:, None, None]).masked_fill(~self.valid, 0).square().sum((1, 2))

    @property
    def _known(self) -> Tensor:
        return self.dem.double().masked_fill(~self.valid, 0)


class TileErrors(NamedTuple):
    """Each tile's number of valid pixels, (N,), and its MAE, (N,) meters, NaN where it has no valid pixel."""

    pixels: Tensor
    mae: Tensor


class Measures:
    """How predicted elevation differs from the true one, accumulated over tiles.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
        scale: the meters that become 0 and 1 for SSIM, and its ``data_range`` on that scale; without it, no SSIM.
        form: also measure slope, aspect, roughness, PSNR and spectra, which a constant offset does not change.
    """

    def __init__(self, gsd: tuple[float, float], scale: tuple[float, float, float] | None = None, form: bool = True):
        self.gsd, self.scale, self.form = gsd, scale, form
        self.errors = Tally()
        self.by_class = {kind: Tally(len(edges) - 1, step=0.1) for kind, edges in CLASSES.items()}
        self.truth_sum = self.truth_squares = 0.0
        self.tiles = self.flat = 0
        self.determination, self.similarity, self.peak = Mean(), Mean(), Mean()
        self.slope, self.aspect, self.roughness = Tally(reach=1000.0), Tally(reach=180.0), Tally(reach=1000.0)
        self.power: Tensor | None = None

    def update(
        self, prediction: Tensor, truth: Tensor, water: Tensor | None = None, elevation: Tensor | None = None,
        gsd: tuple[terrain.Side, terrain.Side] | None = None,
    ) -> TileErrors:
        """Add tiles.

        Args:
            prediction, truth: (N, H, W) meters; NaN in ``truth`` for nodata.
            water, elevation: see :class:`Truth`.
            gsd: ground sampling distance of these tiles, where it is not that of all.

        Raises:
            WrongShape: they lie on different grids, or a prediction is NaN where there is a truth.
        """
        return self.compare(prediction, Truth(truth, gsd or self.gsd, water, elevation))

    def compare(self, prediction: Tensor, truth: Truth) -> TileErrors:
        """Add tiles whose truth several predictions share; see :meth:`update`."""
        prediction = prediction.float()
        check_pair(prediction, truth.dem)
        error = prediction - truth.dem
        self.errors.add(error[truth.valid])
        for kind, (known, number) in truth.classes.items():
            self.by_class[kind].add(error[known], number)
        if self.form:
            self._form(prediction, error, truth)
        if self.scale:
            low, high, data_range = self.scale
            ours, theirs = ((dem - low) / (high - low) for dem in (prediction, truth.dem))
            self.similarity.add(ssim(ours, theirs, data_range))
        return self._tiles(error, truth)

    def _tiles(self, error: Tensor, truth: Truth) -> TileErrors:
        """Add the sums behind R², and each tile's own R²."""
        error = error.double().masked_fill(~truth.valid, 0)
        total, squares = truth.sums
        self.truth_sum += total
        self.truth_squares += squares
        self.tiles += int((truth.pixels > 0).sum())
        self.flat += int((truth.relief == 0).sum())
        self.determination.add((1 - error.square().sum((1, 2)) / truth.deviations)[truth.relief > 0])
        return TileErrors(truth.pixels, error.abs().sum((1, 2)) / truth.pixels)

    def _form(self, prediction: Tensor, error: Tensor, truth: Truth) -> None:
        """Add what a constant offset does not change: slope, roughness, aspect, PSNR and spectra."""
        differences = {
            self.slope: terrain.slope(prediction, truth.gsd) - truth.slope,
            self.roughness: terrain.roughness(prediction) - truth.roughness,
            self.aspect: terrain.angle_between(terrain.aspect(prediction, truth.gsd), truth.aspect),
        }
        for tally, difference in differences.items():
            tally.add(difference[~difference.isnan()])
        wide = error.double()
        squared = (wide - wide.nanmean((1, 2), keepdim=True)).square().nanmean((1, 2))
        self.peak.add(10 * torch.log10(truth.relief.double().square() / squared)[truth.relief > 0])
        self._spectra(torch.stack([truth.dem, prediction, error])[:, truth.valid.all(2).all(1)])

    def _spectra(self, dems: Tensor) -> None:
        """Add the power by wavenumber of truth, prediction and error, (3, N, T, T)."""
        size = dems.shape[-1]
        if not dems.shape[1] or size != dems.shape[-2]:
            return
        window = torch.hann_window(size, periodic=False)
        frequency = torch.fft.fftfreq(size)
        ring = torch.hypot(frequency[:, None] / self.gsd[0], frequency[None] / self.gsd[1]) * size * max(self.gsd)
        ring = ring.round().long().clamp(max=size // 2).flatten()
        waves = torch.fft.fft2((dems - dems.mean((2, 3), keepdim=True)) * window[:, None] * window)
        power = waves.abs().square().double().sum(1).flatten(1)  # (3, T T)
        rings = torch.zeros(3, size // 2 + 1, dtype=torch.float64).index_add_(1, ring, power)
        self.power = rings if self.power is None else self.power + rings

    def wavelengths(self) -> np.ndarray:
        """Wavelengths in meters of the columns 1, 2, … of ``power``, (3, K): truth, prediction, error.

        Column 0 is the mean.

        Raises:
            NoTiles: no square tile without nodata was added.
        """
        if self.power is None:
            raise NoTiles("there is no spectrum: it needs square tiles without nodata, and none was added")
        size = 2 * (self.power.shape[1] - 1)
        return size * max(self.gsd) / np.arange(1, size // 2 + 1)

    def result(self) -> dict[str, float | None]:
        """All measures in one row: meters, percent of slope, degrees of aspect, decibels; None where undefined.

        ``R2`` is pooled over all pixels; ``tile R2`` is the mean over tiles that are not flat; ``flat tiles`` counts
        those that are.

        Raises:
            NoTiles: no valid pixel was added.
        """
        if not self.errors.sums[0, 0]:
            raise NoTiles("there is nothing to score: no tile has a valid elevation")
        row = self.errors.result()
        assert row["pixels"] is not None and row["RMSE"] is not None  # with one pixel or more
        spread = self.truth_squares - self.truth_sum**2 / row["pixels"]
        row |= {
            "R2": 1 - row["pixels"] * row["RMSE"] ** 2 / spread if spread > 1e-9 * self.truth_squares else None,
            "tile R2": self.determination.result(), "SSIM": self.similarity.result(),
        }
        if self.form:
            slope, aspect, roughness = (tally.result() for tally in (self.slope, self.aspect, self.roughness))
            row |= {
                "PSNR": self.peak.result(), "slope bias": slope["bias"], "slope MAE": slope["MAE"],
                "aspect MAE": aspect["MAE"], "roughness bias": roughness["bias"], "roughness MAE": roughness["MAE"],
            }
        return row | {"tiles": self.tiles, "flat tiles": self.flat}


def ssim(prediction: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of each tile (Wang et al. 2004, doi 10.1109/TIP.2003.819861), (N, H, W) to (N,).

    The result is torchmetrics', but the Gaussian window is a matrix product over columns and rows, ten times as fast;
    otherwise SSIM would take half the time of scoring. Only pixels whose whole 11 px window is valid count; a tile
    without any gives NaN.
    """
    valid = ~truth.isnan()
    a, b = torch.where(valid, prediction, 0.0), torch.where(valid, truth, 0.0)
    maps = F.pad(torch.stack([a, b, a * a, b * b, a * b]), (5, 5, 5, 5), mode="reflect")  # (5, N, H + 10, W + 10)
    rows, columns = (_window(side, a.dtype) for side in a.shape[1:])
    blurred = rows.T @ (maps @ columns)  # (5, N, H, W)
    mean_a, mean_b, square_a, square_b, product = blurred
    variances = (square_a - mean_a**2).clamp(min=0) + (square_b - mean_b**2).clamp(min=0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * (product - mean_a * mean_b) + c2)
    full = above / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    if not valid.all():
        hole = F.max_pool2d((~valid).float().unsqueeze(1), 11, stride=1, padding=5).squeeze(1) > 0
        full = full.masked_fill(hole, torch.nan)
    return full.nanmean((-2, -1))


def _window(side: int, dtype: torch.dtype) -> Tensor:
    """SSIM's Gaussian of 11 px around each of ``side`` pixels, (side + 10, side)."""
    from_center = torch.arange(side + 10)[:, None] - 5 - torch.arange(side)
    weights = torch.exp(-(from_center.to(dtype) / 1.5).square() / 2).masked_fill(from_center.abs() > 5, 0)
    return weights / weights.sum(0)
