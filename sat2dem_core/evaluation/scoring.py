"""Scores in meters on held-out tiles, always beside baselines.

The paper's two normalizations answer different questions, so every model is asked all of them:

- ``absolute``: elevation. A Shift model does not know it and is handed each tile's true minimum (its anchor).
- ``above minimum``: height above the tile's lowest point, the question that Shift trains for. A Global model's
  answer is its prediction minus that prediction's own minimum.
- ``relief``: shape alone; the tile's mean is taken from prediction and truth.

Metrics as in Leyva, Ortega & de Moura (2026): MAE, RMSE and R² over all pixels of all tiles, SSIM the mean over
tiles on (n + 1) / 2 with the normalization's ``ssim_range``. Beside them stand those of :mod:`sat2dem_core.evaluation.measures`.
Nodata counts nowhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sat2dem_core import terrain
from sat2dem_core.dataset.normalize import Normalization, tile_minimum
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.errors import NoTiles, choose
from sat2dem_core.evaluation import baselines
from sat2dem_core.evaluation.baselines import Predictor, tile_mean
from sat2dem_core.evaluation.drainage import Drainage
from sat2dem_core.evaluation.measures import CLASSES, Measures
from sat2dem_core.training.checkpoints import Model

QUESTIONS = ("absolute", "above minimum", "relief")
BATCH = 16  # tiles measured at once


def to_target(dem: Tensor, question: str) -> Tensor:
    """Elevation (N, H, W) in meters as one of ``QUESTIONS`` sees it."""
    choose("question", question, QUESTIONS)
    if question == "relief":
        return dem - tile_mean(dem)
    return dem - tile_minimum(dem) if question == "above minimum" else dem


def trained_question(normalization: str) -> str:
    """The question that a normalization trains for, and on which the paper scores it."""
    return "absolute" if normalization == "global" else "above minimum"


def elevations(model: Model, rgb: np.ndarray | Tensor, truth: Tensor) -> dict[str, Tensor]:
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
    return {question: to_target(absolute, question) for question in QUESTIONS}


@dataclass(frozen=True)
class Evaluation:
    """What a model and its baselines scored.

    Attributes:
        table: one row for each question and predictor, a column for each measure (see
            :meth:`sat2dem_core.evaluation.measures.Measures.result`). What a constant offset does not change stands with ``relief``
            alone; SSIM has no scale there, and is None.
        classes: the same for each class of slope, elevation and relief of the truth, in ``by`` and ``class``.
        spectra: by wavelength in meters, for each predictor the power of its relief and of its error, as shares of the
            truth's power at that wavelength.
        tiles: by tile its valid pixels, and for each question and predictor (``relief: unet``) its MAE in meters.
    """

    table: pd.DataFrame
    classes: pd.DataFrame
    spectra: pd.DataFrame
    tiles: pd.DataFrame


def evaluate(model: Model, test: Tiles, train: Tiles, *, mask_water: bool = False, drainage: bool = False) -> Evaluation:
    """Score a model and its baselines on held-out tiles, some of which are in memory at a time.

    The baselines: ``constant``, the training tiles' median answer; ``color``, a linear regression on red, green and
    blue; and, from each test tile's truth, its ``tile mean``, its best ``tile plane``, and it at ``coarse 1 km`` and
    ``coarse 90 m`` (the latter where pixels are finer). The model's name with ``, 1 km anchor`` is its relief, lifted to
    each tile's mean of the coarse DEM: what a user has who does not know the tile's minimum.

    Args:
        test: what to score on.
        train: what ``constant`` and ``color`` are taken from.
        mask_water: leave out water, that is, ground that is quite level in the truth
            (:func:`sat2dem_core.terrain.level`).
        drainage: compare channels, too (:mod:`sat2dem_core.evaluation.drainage`), in the rows of ``relief``.

    Raises:
        NoTiles: there is no tile, or none has a valid elevation.
    """
    if not len(test):
        raise NoTiles("there is nothing to score: the test set is empty")
    known, coarse = _baselines(train, test.gsd), f"{model.config.method}, 1 km anchor"
    measures: dict[tuple[str, str], Measures] = {}
    for question in QUESTIONS:
        for name in (model.config.method, *((coarse,) if question == "absolute" else ()), *known[question]):
            scale = ssim_scale(question, model.normalization)
            measures[question, name] = Measures(test.gsd, scale, form=question == "relief")
    networks = {key: Drainage(test.gsd) for key in measures if drainage and key[0] == "relief"}
    tiles: list[dict[str, np.ndarray]] = []
    for rgb, truth in tqdm(_batches(test), total=-(-len(test) // BATCH), unit="batch", desc="scoring", delay=5):
        water = terrain.level(truth) if mask_water else None
        answers = elevations(model, rgb, truth)
        lifted = answers["relief"] + tile_mean(known["absolute"]["coarse 1 km"](rgb, truth))
        tiles.append({"pixels": _count(truth, water)})
        for (question, name), measure in measures.items():
            if name in known[question]:
                answer = known[question][name](rgb, truth)
            else:
                answer = lifted if name == coarse else answers[question]
            by_tile = measure.update(answer, to_target(truth, question), water, elevation=truth)
            tiles[-1][f"{question}: {name}"] = by_tile.numpy()
            if drainage and question == "relief":
                networks[question, name].update(answer, truth)
    columns = {name: np.concatenate([part[name] for part in tiles]) for name in tiles[0]}
    return Evaluation(
        _table({key: measure.result() | (networks[key].result() if key in networks else {}) for key, measure in measures.items()}),
        _classes(measures), _spectra(measures),
        pd.DataFrame(columns, index=pd.Index(test.ids, name="tile")),
    )


def _count(truth: Tensor, water: Tensor | None) -> np.ndarray:
    """How many pixels of each tile are scored."""
    valid = ~truth.isnan() if water is None else ~truth.isnan() & ~water
    return valid.sum((1, 2)).numpy()


def _batches(tiles: Tiles) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles in parts, also from disk."""
    for start in range(0, len(tiles), BATCH):
        rgb, dem = (torch.from_numpy(np.asarray(array[start : start + BATCH])) for array in (tiles.rgb, tiles.dem))
        yield rgb, dem


def _baselines(train: Tiles, gsd: tuple[float, float]) -> dict[str, dict[str, Predictor]]:
    """By question and name."""
    truth_based = {"tile mean": baselines.mean, "tile plane": baselines.plane, "coarse 1 km": baselines.coarse(1000, gsd)}
    if 2 * max(gsd) <= 90:
        truth_based["coarse 90 m"] = baselines.coarse(90, gsd)

    def ask(predictor: Predictor, question: str, rgb: Tensor, truth: Tensor) -> Tensor:
        return to_target(predictor(rgb, truth), question)

    def pairs(question: str) -> Iterator[tuple[Tensor, Tensor]]:
        return ((rgb, to_target(dem, question)) for rgb, dem in _batches(train))

    def asked_mean(question: str, rgb: Tensor, truth: Tensor) -> Tensor:
        # the mean of what is asked: that of the elevation, put to the question, were zero
        return baselines.mean(rgb, to_target(truth, question))

    found = {}
    for question in QUESTIONS:
        fitted = {"constant": baselines.constant(pairs(question)), "color": baselines.color(pairs(question))}
        found[question] = fitted | {name: partial(ask, predictor, question) for name, predictor in truth_based.items()}
        found[question]["tile mean"] = partial(asked_mean, question)
    return found


def ssim_scale(question: str, normalization: Normalization) -> tuple[float, float, float] | None:
    """SSIM's scale (see :class:`sat2dem_core.evaluation.measures.Measures`) for each question as the paper sets it where it is trained for."""
    span = normalization.high - normalization.low
    scales = {"absolute": (normalization.low, normalization.high, 1.0), "above minimum": (0.0, span, normalization.relief / span)}
    return scales.get(question)


def _table(rows: dict[tuple[str, str], dict]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(rows, names=["question", "predictor"])
    return pd.DataFrame(rows.values(), index, columns=max(map(list, rows.values()), key=len), dtype=float)


def _classes(measures: dict[tuple[str, str], Measures]) -> pd.DataFrame:
    rows = {
        (question, name, kind, f"{low:g} to {high:g}"): tally.result(number)
        for (question, name), measure in measures.items() for kind, tally in measure.by_class.items()
        for number, (low, high) in enumerate(zip(CLASSES[kind], CLASSES[kind][1:])) if tally.sums[0, number]
    }
    return pd.DataFrame(rows.values(), pd.MultiIndex.from_tuples(rows, names=["question", "predictor", "by", "class"]))


def _spectra(measures: dict[tuple[str, str], Measures]) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    wavelengths = np.empty(0)
    for (question, name), measure in measures.items():
        if question == "relief" and measure.power is not None:
            truth, predicted, error = measure.power[:, 1:].numpy()
            columns |= {f"{name}: relief": predicted / truth, f"{name}: error": error / truth}
            wavelengths = measure.wavelengths()
    return pd.DataFrame(columns, index=pd.Index(wavelengths, name="wavelength"))
