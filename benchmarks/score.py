"""What it costs to score many tiles with every measure but drainage: time, projected to the paper's 10,237, and memory.

    python benchmarks/score.py [--tiles 512] [--size 256]

A made-up model, whose answers lie ready, is scored on made-up terrain with its baselines, which are fitted to as many
tiles; ``a study's rows`` are what a study keeps, and ``evaluate's tables`` have all measures of the baselines. Both are
compared with the least that any score needs: tiles are read, and one absolute difference is taken with NumPy.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.splits import PAPER_TILES
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.evaluation.measures import Measures, Truth
from sat2dem_core.evaluation.scoring import (
    BATCH, PART, QUESTIONS, elevations, evaluate, fit_baselines, ssim_scale, to_target,
)
from sat2dem_core.models.device import processor

GSD = (30.0, 30.0)  # meters


def terrain(count: int, size: int, seed: int) -> np.ndarray:
    """Three octaves of noise, (count, size, size) meters."""
    draws = torch.Generator().manual_seed(seed)
    octaves = [
        torch.nn.functional.interpolate(torch.randn(count, 1, cells, cells, generator=draws), size, mode="bicubic")
        for cells in (4, 12, 36)
    ]
    return sum(1500 / 3**number * octave[:, 0] for number, octave in enumerate(octaves)).numpy()


class Repeated:
    """A few tiles over and over, so that many cost no memory; each read copies them, as from a disk's cache."""

    def __init__(self, few: np.ndarray, count: int):
        self.few, self.shape = few, (count, *few.shape[1:])

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.few[np.arange(*part.indices(self.shape[0])) % len(self.few)]


class Model:
    """A model whose answers are made before it is asked."""

    def __init__(self, truth: np.ndarray):
        self.config = SimpleNamespace(method="unet")
        self.normalization = Normalization.fit("shift", truth)
        answers = 0.7 * truth + 0.3 * terrain(len(truth), truth.shape[-1], 1)
        self.answers = self.normalization.forward(torch.from_numpy(answers))[0]

    def predict(self, rgb: torch.Tensor) -> torch.Tensor:
        return self.answers[: len(rgb)]


def made_up(count: int, size: int) -> tuple[Tiles, Model]:
    """Tiles of which a batch is repeated, and a model for them."""
    truth = terrain(BATCH, size, 0)
    noise = np.random.default_rng(0).normal(0, 20, (BATCH, 3, size, size))
    rgb = (128 + truth[:, None] / 50 + noise).clip(0, 255).astype(np.uint8)
    corners = np.stack([np.arange(count) * size, np.zeros(count, int)], 1)
    tiles = Tiles(rgb, truth, tuple(f"{number}" for number in range(count)), corners, GSD)
    return replace(tiles, rgb=Repeated(rgb, count), dem=Repeated(truth, count)), Model(truth)


def of_model(model: Model, tiles: Tiles) -> None:
    """Measure the model's three answers alone."""
    scales = {question: ssim_scale(question, model.normalization) for question in QUESTIONS}
    measures = {question: Measures(GSD, scale, question == "relief") for question, scale in scales.items()}
    for start in range(0, len(tiles), BATCH):
        dem = torch.from_numpy(tiles.dem[start : start + BATCH])
        predicted = elevations(model, dem, dem)
        for part in torch.arange(len(dem)).split(max(PART // tiles.size**2, 1)):
            for question, measure in measures.items():
                truth = Truth(to_target(dem[part], question), GSD, elevation=dem[part])
                measure.compare(predicted[question][part], truth)
    for measure in measures.values():
        measure.result()


def floor(model: Model, tiles: Tiles) -> None:
    """Read the tiles, and take one absolute difference."""
    for start in range(0, len(tiles), BATCH):
        dem = tiles.dem[start : start + BATCH]
        np.abs(model.answers[: len(dem)].numpy() - dem).mean((1, 2))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tiles", type=int, default=512)
    arguments.add_argument("--size", type=int, default=256, help="px")
    args = arguments.parse_args()
    few, _ = made_up(BATCH, args.size)
    tiles, model = made_up(args.tiles, args.size)
    evaluate(model, few, few)  # warms up, and what a few tiles take of memory
    before = peak_memory()
    fitted = fit_baselines(few)
    spent = {
        "reading and one difference, NumPy": seconds(lambda: floor(model, tiles)),
        "the model's measures": seconds(lambda: of_model(model, tiles)),
        "fit of the baselines": seconds(lambda: fit_baselines(tiles)),
        "the model's measures, baselines' MAE": seconds(lambda: evaluate(model, tiles, fitted, full=False)),
        "a study's rows: these and the fit": seconds(lambda: evaluate(model, tiles, tiles, full=False)),
        "evaluate's tables": seconds(lambda: evaluate(model, tiles, tiles)),
    }
    table = pd.DataFrame({"what": spent.keys(), "ms a tile": [1000 * each / args.tiles for each in spent.values()]})
    table[f"{PAPER_TILES} tiles, minutes"] = table["ms a tile"] * PAPER_TILES / 60_000
    machine = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}; {args.tiles} tiles of {args.size} px, three questions\n")
    print(table.round(1).to_markdown(index=False))
    print(f"\nPeak memory: {before:.0f} MB after {BATCH} tiles, {peak_memory():.0f} MB after {args.tiles}.")


if __name__ == "__main__":
    main()
