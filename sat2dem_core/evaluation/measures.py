"""Measures of elevation error that DEM makers use, in one pass over any number of tiles and in bounded memory.

Errors are prediction minus truth. A median needs all errors at once: up to a million of them are kept and give exact
quantiles; beyond that, a histogram replaces them and quantiles are interpolated within its bins.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core import terrain
from sat2dem_core.errors import NoTiles, WrongShape

BLOCK = 32  # px of a side that SSIM's windows are computed for at once
KEPT = 2**20  # errors that are kept before a histogram replaces them
CLASSES = {
    "slope": (0.0, 12.5, 25.0, 50.0, math.inf),  # percent, of the truth (DEMIX, arXiv 2302.08425)
    "elevation": (-math.inf, 0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, math.inf),  # meters
    "relief": (0.0, 100.0, 300.0, 600.0, 1200.0, math.inf),  # meters, of the tile
}
Values = Tensor | np.ndarray


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


class Sums:
    """Bias, MAE, RMSE and STD of a stream of errors, in one group or several."""

    def __init__(self, groups: int = 1):
        self.groups = groups
        self.sums = np.zeros((4, groups))  # of ones, errors, absolute and squared errors

    def add(self, errors: Values, group: Values | None = None) -> None:
        """Add errors (K,), none of them NaN, and the number of each one's group, by default 0."""
        values, numbers = np.asarray(errors), None if group is None else np.asarray(group)
        parts = [values] if numbers is None else [values[numbers == number] for number in range(self.groups)]
        for number, part in enumerate(parts):
            wide = part.astype(np.float64)
            self.sums[:, number] += len(wide), wide.sum(), np.abs(wide).sum(), float(wide @ wide)

    def result(self, group: int = 0) -> dict[str, float | None]:
        """All measures of a group; each is None where the group has no errors."""
        count, total, absolute, squared = map(float, self.sums[:, group])
        if not count:
            return dict.fromkeys(("bias", "MAE", "RMSE", "STD")) | {"pixels": 0}
        bias = total / count
        return {
            "bias": bias, "MAE": absolute / count, "RMSE": math.sqrt(squared / count),
            "STD": math.sqrt(max(squared / count - bias**2, 0.0)), "pixels": int(count),
        }


class Tally(Sums):
    """The same, and NMAD and LE90.

    Args:
        groups: how many there are.
        reach, step: range and bin width of the histogram; errors beyond ±``reach`` count in its outermost bins.
    """

    def __init__(self, groups: int = 1, reach: float = 5000.0, step: float = 0.01):
        super().__init__(groups)
        self.reach, self.step, self.bins = reach, step, round(2 * reach / step)
        self.kept: list[tuple[np.ndarray, np.ndarray | None]] = []
        self.counts: np.ndarray | None = None

    def add(self, errors: Values, group: Values | None = None, sums: Values | None = None) -> None:
        """Add errors; see :meth:`Sums.add`.

        Args:
            sums: (4,), what the errors add to ``sums`` of the only group, where that is known.
        """
        if sums is None:
            super().add(errors, group)
        else:
            self.sums[:, 0] += np.asarray(sums)
        self.kept.append((np.asarray(errors, np.float32), None if group is None else np.asarray(group, np.uint8)))
        if self.counts is not None or self.sums[0].sum() > KEPT:
            for part in self.kept:
                self._count(*part)
            self.kept = []

    def _count(self, values: np.ndarray, group: np.ndarray | None) -> None:
        if self.counts is None:
            self.counts = np.zeros((self.groups, self.bins), np.int64)
        bins = ((values + self.reach) / self.step).clip(0, self.bins - 1).astype(np.int64)
        if group is not None:
            bins += group.astype(np.int64) * self.bins
        np.add.at(self.counts.reshape(-1), bins, 1)  # np.bincount would walk through all bins each time

    def median(self, group: int = 0) -> float:
        """Of a group's errors."""
        if self.counts is None:
            return _quantile(self._values(group), 0.5)
        shares, edges = self._distribution(group)
        return float(np.interp(0.5, shares, edges))

    def spread(self, share: float, middle: float = 0.0, group: int = 0) -> float:
        """The distance from ``middle`` within which that share of the errors lies."""
        if self.counts is None:
            return _quantile(np.abs(self._values(group) - middle), share)
        shares, edges = self._distribution(group)
        lower, upper = 0.0, 2 * self.reach
        for _ in range(60):  # bisection: the share within a distance grows with the distance
            distance = (lower + upper) / 2
            low, high = np.interp((middle - distance, middle + distance), edges, shares)
            lower, upper = (distance, upper) if high - low < share else (lower, distance)
        return distance

    def _values(self, group: int) -> np.ndarray:
        parts = [values if groups is None else values[groups == group] for values, groups in self.kept]
        return np.concatenate(parts).astype(np.float64)

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
        row = super().result(group)
        pixels = row.pop("pixels")
        if not pixels:
            return row | {"NMAD": None, "LE90": None, "pixels": 0}
        nmad = 1.4826 * self.spread(0.5, self.median(group), group)
        return row | {"NMAD": nmad, "LE90": self.spread(0.9, 0.0, group), "pixels": pixels}


def _quantile(values: np.ndarray, share: float) -> float:
    """As np.quantile, six times as fast: one partition at a time is vectorized, and two at once are not."""
    if not len(values):
        return math.nan
    place = share * (len(values) - 1)
    below = int(place)
    parts = np.partition(values, below)
    above = parts[below + 1:].min() if place > below else parts[below]
    return float(parts[below] + (place - below) * (above - parts[below]))


class Mean:
    """Mean of a stream of tiles' values, without those that are NaN or infinite."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, values: Tensor) -> None:
        finite = values[values.isfinite()]
        self.total, self.count = self.total + float(finite.double().sum()), self.count + len(finite)

    def result(self) -> float | None:
        return self.total / self.count if self.count else None


class Known:
    """Which pixels of tiles are known.

    Args:
        dem: (N, H, W), NaN for nodata.
    """

    def __init__(self, dem: Tensor):
        self.valid = torch.from_numpy(~np.isnan(dem.numpy()))  # ten times as fast as torch's isnan

    @cached_property
    def whole(self) -> bool:
        """Whether there is no nodata, so that masks, which take longer than sums, can be left out."""
        return bool(self.valid.numpy().all())

    @cached_property
    def complete(self) -> Tensor:
        """Tiles without nodata, (N,) bool."""
        return self.valid.all(2).all(1)

    @cached_property
    def pixels(self) -> Tensor:
        """Valid pixels of each tile, (N,)."""
        return self.valid.sum((1, 2))

    def filled(self, values: Tensor, filler: float = 0.0) -> Tensor:
        """Values (N, H, W) with this one at nodata."""
        return values if self.whole else values.masked_fill(~self.valid, filler)

    def chosen(self, values: Tensor) -> np.ndarray:
        """Values (N, H, W) of valid pixels, (K,)."""
        return values.numpy().ravel() if self.whole else values.numpy()[self.valid.numpy()]


class Truth(Known):
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
        super().__init__(self.dem)
        self._classes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[tuple[float, float], _Windows] = {}

    def errors(self, prediction: Tensor) -> Tensor:
        """Prediction minus truth, (N, H, W) meters, and 0 at nodata.

        Raises:
            WrongShape: they lie on different grids, or a prediction is NaN where there is a truth.
        """
        if prediction.shape != self.dem.shape or prediction.ndim != 3:
            check_pair(prediction, self.dem)
        errors = self.filled(prediction.float() - self.dem)
        if errors.sum().isnan():
            check_pair(prediction, self.dem)
        return errors

    @cached_property
    def relief(self) -> Tensor:
        """Highest minus lowest pixel of each tile, (N,) meters; negative infinity where there is none."""
        return self.filled(self.dem, -math.inf).amax((1, 2)) - self.filled(self.dem, math.inf).amin((1, 2))

    @cached_property
    def form(self) -> "_Form":
        return _form(self.dem, self.gsd)

    def classes(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Of one of ``CLASSES``: which pixels have a class, (N, H, W) bool, and its number, (K,) uint8."""
        if kind not in self._classes:
            values = self._classified(kind).numpy()
            known = self.valid.numpy() & ~np.isnan(values)
            numbers = np.zeros(values.shape, np.uint8)
            for edge in CLASSES[kind][1:-1]:
                numbers += values >= edge
            self._classes[kind] = known, numbers[known]
        return self._classes[kind]

    def _classified(self, kind: str) -> Tensor:
        """The values (N, H, W) that decide the class."""
        if kind == "slope":
            return F.pad(self.form.slope, (1, 1, 1, 1), value=torch.nan)
        return self.elevation if kind == "elevation" else self.relief[:, None, None].expand_as(self.dem)

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Tiles with elevation, and flat ones among them."""
        return int((self.pixels > 0).sum()), int((self.relief == 0).sum())

    @cached_property
    def sums(self) -> tuple[float, float]:
        """Of all valid elevations, and of their squares."""
        return float(self._known.sum((1, 2)).sum()), float(self._known.square().sum((1, 2)).sum())

    @cached_property
    def deviations(self) -> Tensor:
        """Sum of squared deviations from each tile's mean, (N,) m²."""
        means = self._known.sum((1, 2)) / self.pixels
        return self.filled(self._known - means[:, None, None]).square().sum((1, 2))

    @cached_property
    def _known(self) -> Tensor:
        return self.filled(self.dem).double()

    @cached_property
    def waves(self) -> Tensor:
        """Fourier transform of the complete tiles; see :func:`_waves`."""
        return _waves(self.dem[self.complete])

    def windows(self, low: float, high: float) -> "_Windows":
        """Means and variances for SSIM, where these meters become 0 and 1."""
        if (low, high) not in self._windows:
            self._windows[low, high] = _Windows((self.dem - low) / (high - low))
        return self._windows[low, high]


class TileErrors(NamedTuple):
    """Each tile's number of valid pixels, (N,), and its MAE, (N,) meters, NaN where it has no valid pixel."""

    pixels: Tensor
    mae: Tensor


class MeanError:
    """MAE alone, accumulated over tiles: ten times as fast as all measures."""

    def __init__(self) -> None:
        self.pixels, self.total = 0, 0.0

    def compare(self, prediction: Tensor, truth: Truth) -> TileErrors:
        """Add tiles; see :meth:`Measures.update`."""
        absolute = truth.errors(prediction).abs().sum((1, 2), dtype=torch.float64)
        self.pixels, self.total = self.pixels + int(truth.pixels.sum()), self.total + float(absolute.sum())
        return TileErrors(truth.pixels, absolute / truth.pixels)

    def result(self) -> dict[str, float | None]:
        """``MAE`` in meters, None where there are no ``pixels``."""
        return {"MAE": self.total / self.pixels if self.pixels else None, "pixels": self.pixels}


class Measures:
    """How predicted elevation differs from the true one, accumulated over tiles.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
        scale: the meters that become 0 and 1 for SSIM, and its ``data_range`` on that scale; without it, no SSIM.
        form: also measure slope, aspect, roughness, PSNR and spectra, which a constant offset does not change.
        classes: those of ``CLASSES`` by which errors are measured, too, in ``by_class``.
    """

    def __init__(
        self, gsd: tuple[float, float], scale: tuple[float, float, float] | None = None, form: bool = True,
        classes: Iterable[str] = CLASSES,
    ):
        self.gsd, self.scale, self.form = gsd, scale, form
        self.errors = Tally()
        self.by_class = {kind: Tally(len(CLASSES[kind]) - 1, step=0.1) for kind in classes}
        self.truth_sum = self.truth_squares = 0.0
        self.tiles = self.flat = 0
        self.determination, self.similarity, self.peak = Mean(), Mean(), Mean()
        self.slope, self.aspect, self.roughness = Sums(), Sums(), Sums()
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
        error = truth.errors(prediction)
        prediction, wide = prediction.float(), error.double()
        absolute, squares = wide.abs().sum((1, 2)), wide.square().sum((1, 2))
        sums = torch.stack([truth.pixels, wide.sum((1, 2)), absolute, squares])
        self.errors.add(truth.chosen(error), sums=sums.sum(1))
        for kind, tally in self.by_class.items():
            known, number = truth.classes(kind)
            tally.add(error.numpy()[known], number)
        if self.form:
            self._form(prediction, wide, truth)
        if self.scale:
            low, high, data_range = self.scale
            self.similarity.add(_similarity((prediction - low) / (high - low), truth.windows(low, high), data_range))
        self._add_truth(truth)
        self.determination.add((1 - squares / truth.deviations)[truth.relief > 0])
        return TileErrors(truth.pixels, absolute / truth.pixels)

    def _add_truth(self, truth: Truth) -> None:
        """Add the sums behind R²."""
        total, squares = truth.sums
        self.truth_sum += total
        self.truth_squares += squares
        tiles, flat = truth.counts
        self.tiles += tiles
        self.flat += flat

    def _form(self, prediction: Tensor, error: Tensor, truth: Truth) -> None:
        """Add what a constant offset does not change: slope, roughness, aspect, PSNR and spectra."""
        ours, true = _form(prediction, truth.gsd), truth.form
        # The angle between two aspects is that between the gradients; level terrain has none.
        across, along = ours.south * true.east - ours.east * true.south, ours.south * true.south + ours.east * true.east
        angle = torch.atan2(across.abs(), along).rad2deg().masked_fill(ours.slope * true.slope == 0, torch.nan)
        self.slope.add(_numbers(ours.slope - true.slope))
        self.roughness.add(_numbers(ours.roughness - true.roughness))
        self.aspect.add(_numbers(angle))
        mean = error.sum((1, 2), keepdim=True) / truth.pixels[:, None, None]
        squared = truth.filled(error - mean).square().sum((1, 2)) / truth.pixels
        self.peak.add(10 * torch.log10(truth.relief.double().square() / squared)[truth.relief > 0])
        if prediction.shape[1] == prediction.shape[2] and truth.complete.any():
            waves = _waves(prediction[truth.complete])
            power = torch.stack([_power(part, self.gsd) for part in (truth.waves, waves, waves - truth.waves)])
            self.power = power if self.power is None else self.power + power

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
            slope, aspect, roughness = (sums.result() for sums in (self.slope, self.aspect, self.roughness))
            row |= {
                "PSNR": self.peak.result(), "slope bias": slope["bias"], "slope MAE": slope["MAE"],
                "aspect MAE": aspect["MAE"], "roughness bias": roughness["bias"], "roughness MAE": roughness["MAE"],
            }
        return row | {"tiles": self.tiles, "flat tiles": self.flat}


def _numbers(values: Tensor) -> np.ndarray:
    """All values that are not NaN, (K,)."""
    flat = values.numpy().ravel()
    known = ~np.isnan(flat)
    return flat if known.all() else flat[known]


class _Form(NamedTuple):
    """Gradient, slope in percent and roughness in meters without the outermost pixels, (N, H - 2, W - 2)."""

    south: Tensor
    east: Tensor
    slope: Tensor
    roughness: Tensor


def _form(dem: Tensor, gsd: tuple[terrain.Side, terrain.Side]) -> _Form:
    """As :mod:`sat2dem_core.terrain`, but with one gradient for slope and aspect, and a faster roughness."""
    south, east = (part[:, 1:-1, 1:-1] for part in terrain.gradient(dem, gsd))
    roughness = _extreme(dem, torch.maximum) - _extreme(dem, torch.minimum)
    return _Form(south, east, 100 * torch.hypot(south, east), roughness)


def _extreme(dem: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The pick of each 3 x 3 window; max_pool2d takes thirty times as long."""
    rows = pick(pick(dem[:, :-2], dem[:, 1:-1]), dem[:, 2:])
    return pick(pick(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _waves(dems: Tensor) -> Tensor:
    """Fourier transform of windowed tiles without their mean: (N, T, T) to (N, T, T // 2 + 1), which is half of it."""
    window = torch.hann_window(dems.shape[-1], periodic=False)
    return torch.fft.rfft2((dems - dems.mean((1, 2), keepdim=True)) * (window[:, None] * window))


def _power(waves: Tensor, gsd: tuple[float, float]) -> Tensor:
    """Power by wavenumber of all tiles together, (T // 2 + 1,)."""
    power = (waves.real.square() + waves.imag.square()).sum(0, dtype=torch.float64)
    ring, weights = _rings(len(power), gsd)
    return torch.bincount(ring, (power * weights).flatten(), len(power) // 2 + 1)


@cache
def _rings(size: int, gsd: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The wavenumber of each coefficient of :func:`_waves`, and how often the whole transform has it, (T // 2 + 1,)."""
    along = torch.fft.rfftfreq(size)
    ring = torch.hypot(torch.fft.fftfreq(size)[:, None] / gsd[0], along / gsd[1]) * size * max(gsd)
    weights = torch.where((along == 0) | (along == 0.5), 1, 2)
    return ring.round().long().clamp(max=size // 2).flatten(), weights


def ssim(prediction: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of each tile (Wang et al. 2004, doi 10.1109/TIP.2003.819861), (N, H, W) to (N,).

    The result is torchmetrics', but the Gaussian window is a matrix product over columns and rows, ten times as fast;
    otherwise SSIM would take half the time of scoring. Only pixels whose whole 11 px window is valid count; a tile
    without any gives NaN.
    """
    return _similarity(prediction, _Windows(truth), data_range)


class _Windows:
    """What SSIM needs of the truth (N, H, W): mean and variance in each window, and which windows are not whole."""

    def __init__(self, truth: Tensor):
        self.hole = truth.isnan() if truth.sum().isnan() else None
        self.truth = truth if self.hole is None else truth.masked_fill(self.hole, 0)
        self.mean, square = _blurred(torch.stack([self.truth, self.truth.square()]))
        self.squared = self.mean.square()
        self.variance = (square - self.squared).clamp(min=0)
        if self.hole is not None:
            self.near_hole = F.max_pool2d(self.hole.float().unsqueeze(1), 11, stride=1, padding=5).squeeze(1) > 0


def _similarity(prediction: Tensor, windows: _Windows, data_range: float) -> Tensor:
    a = prediction if windows.hole is None else prediction.masked_fill(windows.hole, 0)
    mean, square, product = _blurred(torch.stack([a, a * a, a * windows.truth]))
    squared, means = mean.square(), mean * windows.mean
    variances = (square - squared).clamp(min=0) + windows.variance
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    full = (2 * means + c1) * (2 * (product - means) + c2) / ((squared + windows.squared + c1) * (variances + c2))
    if windows.hole is None:
        return full.mean((1, 2))
    return full.masked_fill(windows.near_hole, torch.nan).nanmean((1, 2))


def _blurred(maps: Tensor) -> Tensor:
    """Means in SSIM's windows, of maps (..., H, W); at the edges a map is mirrored.

    Each product with the whole matrix is cut into products with its blocks around the diagonal, since all else is zero.
    """
    for _ in range(2):  # columns, then rows
        weights = _window(maps.shape[-1], maps.dtype, maps.device)
        starts = range(0, len(weights), BLOCK)
        blocks = [(slice(max(start - 5, 0), start + BLOCK + 5), slice(start, start + BLOCK)) for start in starts]
        maps = torch.cat([maps[..., near] @ weights[near, block] for near, block in blocks], -1).transpose(-1, -2)
    return maps


@cache
def _window(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """SSIM's Gaussian of 11 px around each of ``side`` pixels, mirrored at the edges, (side, side)."""
    with device:
        from_center = torch.arange(side + 10)[:, None] - 5 - torch.arange(side)
        weights = torch.exp(-(from_center.to(dtype) / 1.5).square() / 2).masked_fill(from_center.abs() > 5, 0)
        return F.pad(torch.eye(side, dtype=dtype)[None], (5, 5), mode="reflect")[0] @ (weights / weights.sum(0))
