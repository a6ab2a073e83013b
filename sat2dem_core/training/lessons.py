"""What a refiner is trained on: windows of images with coarse DEMs that are made of the true elevation.

A window is drawn at a random place of a random source, with cells of a random side on a random grid, so that no network
can learn the cells by heart. It is mirrored so that the sun stands in the south-east, and half of the windows about the
diagonal, too; colors, exposure and haze are changed at random.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sat2dem_core.errors import NoTiles
from sat2dem_core.models.refiner import mirrors
from sat2dem_core.rasters.coarse import CellGrid, mean_keeping_spline
from sat2dem_core.rasters.sun import fit_shading

FINEST, COARSEST = 3, 40  # px: sides of cells
AROUND = 3  # cells that a surface is computed from beyond a window
MIN_KNOWN = 0.5  # share of a window's pixels
SEEN = 0.2  # correlation of brightness and terrain below which a source's sun is the morning's
MORNING = 150.0  # degrees
TURNED = 8.0  # degrees: standard deviation of what the sun is told wrong by


@dataclass
class Source:
    """An image with its elevation.

    Attributes:
        image: (3, H, W) of any unit, not negative; 0 in all bands is nodata.
        truth: (H, W) meters, NaN for nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        azimuth: of the sun, degrees clockwise from the top; None for the one that explains the brightness best.
        resolved: side of the smallest cells that are fair to ask about, px: three pixels of the elevation's own DEM.
        name: for messages.
    """

    image: np.ndarray
    truth: np.ndarray
    gsd: tuple[float, float]
    azimuth: float | None = None
    resolved: float = FINEST
    name: str = "the source"
    _sun: float | None = field(default=None, repr=False)

    @property
    def sun(self) -> float:
        """The azimuth, estimated if it is unknown."""
        if self._sun is None:
            self._sun = self.azimuth
        if self._sun is None:
            shading = fit_shading(self.image, self.truth, self.gsd)
            self._sun = shading.azimuth if shading.r >= SEEN else MORNING
        return self._sun


@dataclass(frozen=True)
class Lesson:
    """A window with the sun in the south-east.

    Attributes:
        image: (3, T, T) float32.
        surface, truth, known: (T, T) float32: the mean-keeping spline and the elevation in meters, and 1 where both
            are known.
        cell, gsd, azimuth: side of a cell, px; ground sampling distance, meters; of the sun, degrees.
    """

    image: np.ndarray
    surface: np.ndarray
    truth: np.ndarray
    known: np.ndarray
    cell: float
    gsd: float
    azimuth: float


class Lessons:
    """Windows of sources; each is determined by the seed and its number.

    Args:
        sources: larger ones are drawn more often, with the square root of their area, so that none rules.
        size: side of a window, px; sources that are smaller are left out.
        shares: of the sources in all windows, in place of that rule.
        plain: colors as they are.

    Raises:
        NoTiles: no source is as large as a window.
    """

    def __init__(
        self, sources: Sequence[Source], size: int, seed: int = 0, shares: Sequence[float] | None = None,
        plain: bool = False,
    ):
        large = [min(source.truth.shape) >= size for source in sources]
        self.sources = [source for source, fits in zip(sources, large) if fits]
        if not self.sources:
            raise NoTiles(f"no image with elevation has {size} x {size} px: give larger ones, or a smaller window")
        given = [math.sqrt(source.truth.size) for source in sources] if shares is None else shares
        chosen = np.array([share for share, fits in zip(given, large) if fits], float)
        self.shares, self.size, self.seed, self.plain = chosen / chosen.sum(), size, seed, plain

    def draw(self, number: int) -> Lesson:
        """The window of that number.

        Raises:
            NoTiles: no place with enough known elevation was found.
        """
        rng = np.random.default_rng((self.seed, number))
        for _ in range(200):
            source = self.sources[rng.choice(len(self.sources), p=self.shares)]
            lesson = self._window(source, rng)
            if lesson is not None:
                return lesson
        raise NoTiles(f"elevation is unknown wherever a window of {self.size} px might lie: give more complete DEMs")

    def _window(self, source: Source, rng: np.random.Generator) -> Lesson | None:
        height, width = source.truth.shape
        top, left = (int(rng.integers(0, side - self.size + 1)) for side in (height, width))
        largest = min(COARSEST, min(height, width) // 4)
        smallest = min(max(FINEST, math.ceil(source.resolved - 1e-6)), largest)
        cell = round(math.exp(rng.uniform(math.log(smallest), math.log(largest))))
        window = (slice(top, top + self.size), slice(left, left + self.size))
        truth = source.truth[window].astype(np.float32)
        if np.isfinite(truth).mean() < MIN_KNOWN:
            return None
        surface, known = _surface(source.truth, cell, window, rng)
        if surface is None:
            return None
        known = known & np.isfinite(truth)
        if known.mean() < MIN_KNOWN:
            return None
        image = source.image[:, *window].astype(np.float32)
        mirror = mirrors(source.sun)[int(rng.random() < 0.5)]
        image, surface, truth, known = map(mirror.turn, (image, surface, np.where(known, truth, 0), known))
        azimuth = mirror.azimuth
        if not self.plain:
            image = recolored(image, rng)
            azimuth = float(np.clip(azimuth + rng.normal(0, TURNED), 90, 180))
        return Lesson(
            image, surface.astype(np.float32), truth.astype(np.float32), known.astype(np.float32), float(cell),
            float(np.mean(source.gsd)), azimuth,
        )


def _surface(
    truth: np.ndarray, cell: int, window: tuple[slice, slice], rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray]:
    """The spline through cells on a random grid around a window, and where cells are known, (T, T) each."""
    spans = []
    for span, side in zip(window, truth.shape):
        first = span.start - int(rng.integers(0, min(cell, span.start + 1)))
        first -= min(AROUND, first // cell) * cell
        last = min(span.stop + AROUND * cell, side)
        spans.append((first, last))
    (top, bottom), (left, right) = spans
    part = truth[top:bottom, left:right].astype(np.float64)
    grid = CellGrid.squares((part.shape[0], part.shape[1]), cell)
    cells = grid.means(part)
    if np.isnan(cells).all():
        return None, np.zeros(0, bool)
    at = tuple(slice(span.start - first, span.stop - first) for span, (first, _) in zip(window, spans))
    known = np.append(~np.isnan(cells), False)[grid.index]
    return mean_keeping_spline(cells, grid)[at], known[at]


def recolored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another sensor, stretch and air: bands in another order or one gray, contrast, haze and noise."""
    valid = image.max(0) > 0
    if rng.random() < 0.3:
        image = image[rng.permutation(3)]
    if rng.random() < 0.25:
        image = np.repeat(image.mean(0, keepdims=True), 3, 0)
    if rng.random() < 0.3:
        image = image.clip(0) ** np.float32(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.3:
        image = image + np.float32(rng.uniform(0, 1)) * image[:, valid].mean()
    if rng.random() < 0.3:
        image = image * (1 + rng.normal(0, 0.03, image.shape).astype(np.float32))
    return np.where(valid, image, 0).astype(np.float32)
