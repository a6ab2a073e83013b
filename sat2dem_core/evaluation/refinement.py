"""The fourth question: how much better does an image make a coarse DEM?

A coarse DEM is made of the truth, as means over squares of k x k px, so that its errors are known to be none. What any
method adds is measured against the mean-keeping spline through the cells, which is free and needs no image. The
question is fair where cells are at least three times as wide as the pixels of the DEM that the truth was made of: finer
relief is not in the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr

from sat2dem_core.errors import NoElevation, WrongShape
from sat2dem_core.evaluation.baselines import Predictor, fit
from sat2dem_core.evaluation.measures import CLASSES, Measures, Truth
from sat2dem_core.evaluation.shading import shape_from_shading
from sat2dem_core.rasters.coarse import (
    CellGrid, bicubic, bilinear, detail, local_step, mean_keeping_spline, smooth_on_pixels,
)
from sat2dem_core.rasters.grids import ground_sampling_distance

CELLS = (3, 11, 33)  # px: 90, 330 and 990 m where pixels have 30 m
FAIR = 2.9  # how many pixels of the truth's own DEM a cell spans at least: nearly 3, since 90 m are 89.8 in places
BORDER = 16  # px that are not scored
BLOCK = 128  # px over which colors are standardized
LIMIT = 3.0  # standard deviations at which they are clipped


@dataclass(frozen=True, eq=False)
class Question:
    """An image with a coarse DEM of the same area, and the truth.

    Attributes:
        image: (3, H, W) uint8.
        truth: (H, W) meters, NaN for nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        k: side of a cell, px; H and W are multiples.
        azimuth: of the sun, degrees clockwise from the top of the image; None if unknown.
    """

    image: np.ndarray
    truth: np.ndarray
    gsd: tuple[float, float]
    k: int
    azimuth: float | None = None

    @cached_property
    def grid(self) -> CellGrid:
        """Where the pixels lie among the cells."""
        return CellGrid.squares((self.truth.shape[0], self.truth.shape[1]), self.k)

    @cached_property
    def cells(self) -> np.ndarray:
        """The coarse DEM, (h, w) meters, NaN where less than half of a cell is known."""
        return self.grid.means(self.truth)

    @cached_property
    def spline(self) -> np.ndarray:
        """The mean-keeping spline, (H, W) meters: what the coarse DEM alone says."""
        return mean_keeping_spline(self.cells, self.grid)

    @cached_property
    def scored(self) -> Truth:
        """The truth within the border, which the scores of all methods share."""
        return Truth(_inner(self.truth), self.gsd)


def is_fair(k: int, pixel: float, dem_pixel: float) -> bool:
    """Whether cells of ``k`` pixels hide relief that the truth has; sizes of pixels in meters."""
    return k * pixel >= FAIR * dem_pixel


def ask(scene: xr.Dataset, k: int) -> Question:
    """The question about a scene, cropped to whole cells.

    Args:
        scene: see :mod:`sat2dem_core.dataset.scenes`; its ``sun_azimuth`` counts, where it has one.
        k: side of a cell, px.

    Raises:
        WrongShape: the scene is too small for the cells and the border.
        NoElevation: no cell is known.
    """
    azimuth = scene.attrs.get("sun_azimuth")
    return ask_tile(
        scene.rgb.values, scene.dem.values, ground_sampling_distance(scene), k,
        None if azimuth is None else float(azimuth), scene.attrs.get("name", "the scene"),
    )


def ask_tile(
    image: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], k: int, azimuth: float | None = None,
    name: str = "the tile",
) -> Question:
    """The same about an image (3, H, W) and its elevation (H, W) in meters."""
    height, width = (side // k * k for side in dem.shape)
    if min(height, width) < max(2 * k, 2 * BORDER + 1):
        raise WrongShape(
            f"{name} is {dem.shape[0]} x {dem.shape[1]} px, and cells of {k} px with a border of {BORDER} px need "
            "more: give smaller cells"
        )
    question = Question(image[:, :height, :width], dem[:height, :width].astype(np.float64), gsd, k, azimuth)
    if np.isnan(question.cells).all():
        raise NoElevation(f"{name} has no cell of {k} px of which half is known: give smaller cells")
    return question


Refiner = Callable[[Question], np.ndarray]  # returns (H, W) meters, and must not look at the truth

CLASSICAL: dict[str, Refiner] = {
    "bilinear": lambda question: bilinear(question.cells, question.grid),
    "bicubic": lambda question: bicubic(question.cells, question.grid),
    "spline": lambda question: question.spline,
    "shape from shading": lambda question: shape_from_shading(
        question.image, question.cells, question.grid, question.gsd
    ),
}


class Scores:
    """Measures of one method over any number of questions, on valid pixels within the border."""

    KEPT = (
        "pixels", "bias", "MAE", "RMSE", "NMAD", "LE90", "slope bias", "slope MAE", "aspect MAE", "roughness MAE",
    )

    def __init__(self, gsd: tuple[float, float]):
        self.measures = Measures(gsd, classes=("slope",))

    def add(self, question: Question, prediction: np.ndarray) -> None:
        """Add an answer, (H, W) meters.

        Raises:
            WrongShape: the prediction lies on another grid, or is NaN where there is a truth.
        """
        self.measures.compare(_inner(prediction), question.scored)

    def result(self) -> dict[str, float]:
        """The measures, and the MAE by the truth's slope, meters.

        Raises:
            NoTiles: no valid pixel was added.
        """
        row, tally = self.measures.result(), self.measures.by_class["slope"]
        scores = {name: float(value) for name in self.KEPT if (value := row.get(name)) is not None}
        for number, (low, high) in enumerate(zip(CLASSES["slope"], CLASSES["slope"][1:])):
            pixels, _, absolute, _ = tally.sums[:, number]
            if pixels:
                scores[f"MAE, slope {low:g} to {high:g} %"] = float(absolute / pixels)
        return scores


def _inner(dem: np.ndarray) -> torch.Tensor:
    """A DEM (H, W) without the border, as one tile (1, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(dem[None, BORDER:-BORDER, BORDER:-BORDER]))


def score(question: Question, prediction: np.ndarray) -> dict[str, float]:
    """The measures of one answer; see :class:`Scores`."""
    scores = Scores(question.gsd)
    scores.add(question, prediction)
    return scores.result()


def color_regression(others: Sequence[Question]) -> Refiner:
    """What the spline misses as a linear function of colors, fitted to other questions of the same k.

    Colors are standardized over blocks of ``BLOCK`` px, and their detail within cells counts; heights are in local
    steps of the coarse DEM (:func:`sat2dem_core.rasters.coarse.local_step`).
    """
    pairs = (
        (_colors(other)[None], torch.from_numpy((other.truth - other.spline) / _step(other))[None]) for other in others
    )
    regression: Predictor = fit(pairs, {"missed": lambda missed: missed})["missed"]["color"]

    def refine(question: Question) -> np.ndarray:
        colors = _colors(question)[None]
        added = regression(colors, torch.zeros(1, *question.truth.shape, dtype=torch.float64))[0].numpy()
        return question.spline + detail(_step(question) * added, question.grid)

    return refine


def _step(question: Question) -> np.ndarray:
    return smooth_on_pixels(local_step(question.cells), question.grid)


def _colors(question: Question) -> torch.Tensor:
    """The detail of standardized colors within cells, (3, H, W)."""
    bands = [detail(band, question.grid) for band in standardized(question.image)]
    return torch.from_numpy(np.stack(bands).astype(np.float32))


def standardized(image: np.ndarray) -> np.ndarray:
    """Bands (B, H, W) with mean 0 and standard deviation 1 on each block of ``BLOCK`` px, clipped at ``LIMIT``."""
    result = np.zeros(image.shape)
    for row in range(0, image.shape[1], BLOCK):
        for column in range(0, image.shape[2], BLOCK):
            place = (slice(None), slice(row, row + BLOCK), slice(column, column + BLOCK))
            block = image[place].astype(np.float64)
            deviation = np.maximum(block.std((1, 2), keepdims=True), 1e-9)
            result[place] = ((block - block.mean((1, 2), keepdims=True)) / deviation).clip(-LIMIT, LIMIT)
    return result
