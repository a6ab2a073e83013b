"""Scores in meters on held-out tiles, always compared with baselines.

The paper's two normalizations train for different questions, so every model is scored on all of them:

- ``absolute``: elevation. A Shift model does not predict it and is given each tile's true minimum (its anchor).
- ``above minimum``: height above the tile's lowest point, which Shift trains for. A Global model's answer is its
  prediction minus that prediction's own minimum.
- ``relief``: form alone; the tile's mean is subtracted from prediction and truth.

Metrics follow Leyva, Ortega & de Moura (2026): MAE, RMSE and R² over all pixels of all tiles, SSIM as the mean over
tiles on (n + 1) / 2 with the normalization's ``ssim_range``. :mod:`sat2dem_core.evaluation.measures` adds others.
Nodata never counts.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from sat2dem_core.evaluation.measures import CLASSES, MeanError, Measures, Truth
from sat2dem_core.training.checkpoints import Model

QUESTIONS = ("absolute", "above minimum", "relief")
BATCH = 16  # tiles predicted at once
PART = 2**17  # pixels measured at once
Key = tuple[str, str]  # question and predictor
Fitted = dict[str, dict[str, Predictor]]  # by question and name


def to_target(dem: Tensor, question: str) -> Tensor:
    """Elevation (N, H, W) in meters as the target of one of ``QUESTIONS``, of the same shape."""
    choose("question", question, QUESTIONS)
    if question == "relief":
        return dem - tile_mean(dem)
    return dem - _lowest(dem) if question == "above minimum" else dem


def _lowest(dem: Tensor) -> Tensor:
    """As :func:`tile_minimum`, and many times as fast for tiles without nodata."""
    lowest = dem.amin((-2, -1), keepdim=True)
    return tile_minimum(dem) if lowest.isnan().any() else lowest


def trained_question(normalization: str) -> str:
    """The question that a normalization trains for, and on which the paper scores it."""
    return "absolute" if normalization == "global" else "above minimum"


def elevations(model: Model, rgb: np.ndarray | Tensor, truth: Tensor) -> dict[str, Tensor]:
    """A model's prediction in meters for each of ``QUESTIONS``: tiles (N, 3, T, T) uint8 to (N, T, T).

    Args:
        truth: (N, T, T) meters; only its minimum is used, and only to anchor a Shift model.
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
    """Scores of a model and of its baselines.

    Attributes:
        table: a row for each question and predictor, a column for each measure (see
            :meth:`sat2dem_core.evaluation.measures.Measures.result`). Measures that a constant offset does not change
            are given for ``relief`` alone; SSIM has no scale there and is None.
        classes: of the model's relief, the same for each class of the truth's slope, elevation and relief, in ``by``
            and ``class``.
        spectra: indexed by wavelength in meters, for each predictor the power of its relief and of its error, as shares
            of the truth's power at that wavelength.
        tiles: indexed by tile, valid pixels, and for each question and predictor (``relief: unet``) its MAE, meters.
    """

    table: pd.DataFrame
    classes: pd.DataFrame
    spectra: pd.DataFrame
    tiles: pd.DataFrame


def evaluate(
    model: Model, test: Tiles, train: Tiles | Fitted, *, mask_water: bool = False, drainage: bool = False,
    full: bool = True,
) -> Evaluation:
    """Score a model and its baselines on held-out tiles, with few tiles in memory at a time.

    The baselines are ``constant``, the median of the training tiles; ``color``, a linear regression on red, green and
    blue; and, computed from each test tile's truth, its ``tile mean``, its best ``tile plane``, and the truth at
    ``coarse 1 km`` and ``coarse 90 m`` (the latter where pixels are finer). The row with the model's name and
    ``, 1 km anchor`` is its relief, raised to each tile's mean of the coarse DEM: what a user gets without knowing the
    tile's minimum.

    Args:
        test: tiles to score on.
        train: tiles that ``constant`` and ``color`` are fitted to, or what :func:`fit_baselines` made of them.
        mask_water: leave out water, that is, areas that are perfectly level in the truth
            (:func:`sat2dem_core.terrain.level`).
        drainage: also compare channels (:mod:`sat2dem_core.evaluation.drainage`), in the rows of ``relief``.
        full: otherwise there is only what a study keeps, in a third of the time: the model's measures and its classes
            of slope, and the baselines' MAE.

    Raises:
        NoTiles: there is no tile, or none has a valid elevation.
    """
    if not len(test):
        raise NoTiles("there is nothing to score: the test set is empty")
    method, anchored = model.config.method, f"{model.config.method}, 1 km anchor"
    known = _Baselines(fit_baselines(train) if isinstance(train, Tiles) else train, test.gsd)
    names = {question: [method, *known.names] for question in QUESTIONS}
    names["absolute"].insert(1, anchored)
    scores = _Scores(names, test.gsd, model.normalization, drainage, full)
    for batch in tqdm(_batches(test), total=-(-len(test) // BATCH), unit="batch", desc="scoring", delay=5):
        for rgb, truth, *predicted in _parts(*batch, *elevations(model, *batch).values()):
            answers = known.answers(rgb, truth) | {(q, method): answer for q, answer in zip(QUESTIONS, predicted)}
            answers["absolute", anchored] = answers["relief", method] + tile_mean(answers["absolute", "coarse 1 km"])
            scores.update(answers, truth, terrain.level(truth) if mask_water else None)
    return scores.result(test.ids)


def fit_baselines(train: Tiles) -> Fitted:
    """The baselines ``constant`` and ``color`` of every question, to be scored on several test sets."""
    parts = ((rgb, dem) for batch in _batches(train) for rgb, dem in _parts(*batch))
    return baselines.fit(parts, {name: partial(to_target, question=name) for name in QUESTIONS})


def _batches(tiles: Tiles) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and elevation of ``BATCH`` tiles at a time, read from disk where they lie there."""
    for start in range(0, len(tiles), BATCH):
        rgb, dem = (torch.from_numpy(np.asarray(array[start : start + BATCH])) for array in (tiles.rgb, tiles.dem))
        yield rgb, dem


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few tiles (N, ..., T, T) of each, so few that what is computed of them fits the processor's cache."""
    count = max(PART // tensors[0].shape[-1] ** 2, 1)
    yield from zip(*(tensor.split(count) for tensor in tensors))


class _Baselines:
    """All baselines for all questions."""

    def __init__(self, fitted: Fitted, gsd: tuple[float, float]):
        self.fitted = fitted
        self.of_truth: dict[str, Predictor] = {
            "tile plane": baselines.plane, "coarse 1 km": baselines.coarse(1000, gsd)
        }
        if 2 * max(gsd) <= 90:
            self.of_truth["coarse 90 m"] = baselines.coarse(90, gsd)
        self.names = ["constant", "color", "tile mean", *self.of_truth]

    def answers(self, rgb: Tensor, truth: Tensor) -> dict[Key, Tensor]:
        """Every baseline's answer to every question, (N, H, W) meters each."""
        computed = {name: predict(rgb, truth) for name, predict in self.of_truth.items()}
        answers = {}
        for question in QUESTIONS:
            # the mean of the question's own target: the mean elevation as a target of relief would be zero everywhere
            answers[question, "tile mean"] = baselines.mean(rgb, to_target(truth, question))
            for name, predict in self.fitted[question].items():
                answers[question, name] = predict(rgb, truth)
            for name, dem in computed.items():
                answers[question, name] = to_target(dem, question)
        return answers


class _Scores:
    """Measures of every question and predictor, accumulated over batches of tiles.

    Args:
        names: the predictors of each question, in the order of the table's rows.
        drainage, full: see :func:`evaluate`.
    """

    def __init__(
        self, names: dict[str, list[str]], gsd: tuple[float, float], normalization: Normalization, drainage: bool,
        full: bool,
    ):
        self.gsd = gsd
        self.measures: dict[Key, Measures | MeanError] = {}
        for question, (model, *others) in names.items():
            scale, form = ssim_scale(question, normalization), question == "relief"
            classes = (CLASSES if full else ("slope",)) if form else ()
            self.measures[question, model] = Measures(gsd, scale, form, classes)
            for name in others:
                self.measures[question, name] = Measures(gsd, scale, form, ()) if full else MeanError()
        self.channels = {key: Drainage(gsd) for key in self.measures if drainage and key[0] == "relief"}
        # The columns of Evaluation.tiles, as numbers: small arrays would lie scattered, and the heap grow around them.
        self.tiles: defaultdict[str, list[float]] = defaultdict(list)

    def update(self, answers: dict[Key, Tensor], truth: Tensor, water: Tensor | None) -> None:
        """Add a batch of tiles, (N, H, W) meters each."""
        targets = {question: Truth(to_target(truth, question), self.gsd, water, truth) for question in QUESTIONS}
        self.tiles["pixels"] += targets["relief"].pixels.tolist()
        for key, measures in self.measures.items():
            question, name = key
            self.tiles[f"{question}: {name}"] += measures.compare(answers[key], targets[question]).mae.tolist()
            if key in self.channels:
                self.channels[key].update(answers[key], truth)

    def result(self, ids: Sequence[str]) -> Evaluation:
        """The evaluation of all tiles, which have these names."""
        tiles = pd.DataFrame(self.tiles, index=pd.Index(ids, name="tile"))
        return Evaluation(self._table(), self._classes(), self._spectra(), tiles)

    def _table(self) -> pd.DataFrame:
        rows: dict[Key, dict[str, float | None]] = {key: measures.result() for key, measures in self.measures.items()}
        for key, channels in self.channels.items():
            rows[key] |= channels.result()
        index = pd.MultiIndex.from_tuples(rows, names=["question", "predictor"])
        return pd.DataFrame(rows.values(), index, columns=max(map(list, rows.values()), key=len), dtype=float)

    def _classes(self) -> pd.DataFrame:
        rows: dict[tuple[str, str, str, str], dict[str, float | None]] = {}
        for key, measures in self.measures.items():
            for kind, tally in measures.by_class.items() if isinstance(measures, Measures) else ():
                for number, (low, high) in enumerate(zip(CLASSES[kind], CLASSES[kind][1:])):
                    if tally.sums[0, number]:  # there are pixels
                        rows[*key, kind, f"{low:g} to {high:g}"] = tally.result(number)
        index = pd.MultiIndex.from_tuples(rows, names=["question", "predictor", "by", "class"])
        return pd.DataFrame(rows.values(), index)

    def _spectra(self) -> pd.DataFrame:
        columns: dict[str, np.ndarray] = {}
        wavelengths = np.empty(0)
        for (_, name), measures in self.measures.items():
            if isinstance(measures, Measures) and measures.power is not None:
                truth, predicted, error = measures.power[:, 1:].numpy()
                columns |= {f"{name}: relief": predicted / truth, f"{name}: error": error / truth}
                wavelengths = measures.wavelengths()
        return pd.DataFrame(columns, index=pd.Index(wavelengths, name="wavelength"))


def ssim_scale(question: str, normalization: Normalization) -> tuple[float, float, float] | None:
    """SSIM's scale for a question, as the paper sets it where it trains for it; None where it has none.

    See :class:`sat2dem_core.evaluation.measures.Measures`.
    """
    span = normalization.high - normalization.low
    scales = {
        "absolute": (normalization.low, normalization.high, 1.0),
        "above minimum": (0.0, span, normalization.relief / span),
    }
    return scales.get(question)
