"""Scores in meters on held-out tiles, always beside baselines.

The paper's two normalizations answer different questions, so every model is asked all of them:

- ``absolute``: elevation. A Shift model does not know it and is handed each tile's true minimum (its anchor).
- ``above minimum``: height above the tile's lowest point, the question that Shift trains for. A Global model's
  answer is its prediction minus that prediction's own minimum.
- ``relief``: shape alone; the tile's mean is taken from prediction and truth.

Metrics as in Leyva, Ortega & de Moura (2026): MAE, RMSE and R² over all pixels of all tiles, SSIM the mean over
tiles on (n + 1) / 2 with the normalization's ``ssim_range``. Nodata counts nowhere.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from sat2dem_core.checkpoints import Model
from sat2dem_core.errors import NoTiles, WrongShape, choose
from sat2dem_core.normalize import Normalization, tile_minimum
from sat2dem_core.tiles import Tiles

QUESTIONS = ("absolute", "above minimum", "relief")


def tile_mean(dem: Tensor) -> Tensor:
    """Mean of each tile's valid pixels: (N, H, W) to (N, 1, 1)."""
    return dem.nanmean((-2, -1), keepdim=True)


def put_question(dem: Tensor, question: str) -> Tensor:
    """Elevation (N, H, W) in meters as one of ``QUESTIONS`` sees it."""
    choose("question", question, QUESTIONS)
    if question == "relief":
        return dem - tile_mean(dem)
    return dem - tile_minimum(dem) if question == "above minimum" else dem


class Scores:
    """MAE, RMSE, R² and SSIM, accumulated tile by tile in float64.

    Args:
        low, high: meters that become 0 and 1 for SSIM; no SSIM without them.
        data_range: SSIM's, on that scale.
    """

    def __init__(self, low: float | None = None, high: float | None = None, data_range: float = 1.0):
        self.low, self.high, self.data_range = low, high, data_range
        self.count = self.tiles = 0
        self.absolute = self.squared = self.truth = self.truth_squared = self.similarity = 0.0

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add tiles: (N, H, W) meters each, NaN in ``truth`` for nodata."""
        if prediction.shape != truth.shape:
            raise WrongShape(
                f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} lie on different grids: "
                "resample one onto the other first"
            )
        valid = ~truth.isnan()
        error, z = (prediction - truth)[valid].double(), truth[valid].double()
        self.count += z.numel()
        self.absolute += float(error.abs().sum())
        self.squared += float(error.square().sum())
        self.truth += float(z.sum())
        self.truth_squared += float(z.square().sum())
        if self.low is not None:
            scaled = ((dem - self.low) / (self.high - self.low) for dem in (prediction, truth))
            similarity = ssim(*scaled, self.data_range)
            self.similarity += float(similarity.nansum())
            self.tiles += int((~similarity.isnan()).sum())

    def result(self) -> dict[str, float]:
        """The scores so far: meters for MAE and RMSE; None for what is not defined on these tiles.

        Raises:
            NoTiles: no valid pixel was seen.
        """
        if not self.count:
            raise NoTiles("there is nothing to score: no tile has a valid elevation")
        spread = self.truth_squared - self.truth**2 / self.count
        return {
            "MAE": self.absolute / self.count,
            "RMSE": math.sqrt(self.squared / self.count),
            "SSIM": self.similarity / self.tiles if self.tiles else None,
            "R2": 1 - self.squared / spread if spread > 1e-9 * self.truth_squared else None,
        }


def ssim(prediction: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of each tile, (N, H, W) to (N,), as torchmetrics computes it.

    Only pixels whose whole 11 px window is valid count; a tile without any gives NaN.
    """
    valid = ~truth.isnan()
    known = torch.where(valid, truth, 0.0).unsqueeze(1)
    _, full = structural_similarity_index_measure(
        torch.where(valid, prediction, 0.0).unsqueeze(1), known, data_range=data_range,
        reduction="none", return_full_image=True,
    )
    hole = torch.nn.functional.max_pool2d((~valid).float().unsqueeze(1), 11, stride=1, padding=5) > 0
    return torch.where(hole, torch.nan, full).squeeze(1).nanmean((-2, -1))


def elevations(model: Model, rgb, truth: Tensor) -> dict[str, Tensor]:
    """A model's prediction in meters for each of ``QUESTIONS``: tiles (N, 3, T, T) uint8 to (N, T, T).

    Args:
        truth: (N, T, T) meters, of which only the minimum is used, and only to anchor a Shift model.
    """
    normalized = model.predict(rgb)
    if model.normalization.kind == "shift":
        height = model.normalization.height_above_minimum(normalized)
        absolute = height + tile_minimum(truth)
        return {"absolute": absolute, "above minimum": height, "relief": height - tile_mean(height)}
    absolute = model.normalization.inverse(normalized)
    return {question: put_question(absolute, question) for question in QUESTIONS}


def evaluate(model: Model, test: Tiles, train: Tiles) -> pd.DataFrame:
    """Score a model and two baselines on held-out tiles.

    The baselines: ``constant``, the training tiles' median answer everywhere, and ``tile mean``, each test tile's
    own true mean, that is the error that is left when relief is not predicted at all.

    Args:
        test: what to score on.
        train: what the constant is taken from.

    Returns:
        One row for each question and predictor, with MAE, RMSE (meters), SSIM and R2. SSIM is None for relief, on
        which the paper does not define it.
    """
    truth, seen = (torch.from_numpy(np.asarray(tiles.dem)) for tiles in (test, train))
    answers = elevations(model, test.rgb, truth)
    predictors: dict[str, Callable[[str], Tensor]] = {
        model.config.method: answers.__getitem__,
        "constant": lambda question: put_question(seen, question).nanmedian().expand_as(truth),
        "tile mean": lambda question: tile_mean(put_question(truth, question)).expand_as(truth),
    }
    rows = []
    for question in QUESTIONS:
        for name, predict in predictors.items():
            scores = _scores(question, model.normalization)
            scores.update(predict(question), put_question(truth, question))
            rows.append({"question": question, "predictor": name} | scores.result())
    return pd.DataFrame(rows).set_index(["question", "predictor"])


def _scores(question: str, normalization: Normalization) -> Scores:
    """SSIM as the paper sets it for the normalization that trains for the question."""
    low, high = normalization.low, normalization.high
    if question == "absolute":
        return Scores(low, high)
    return Scores(0.0, high - low, normalization.relief / (high - low)) if question == "above minimum" else Scores()
