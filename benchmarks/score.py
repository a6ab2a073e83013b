"""What it costs to score many tiles with every measure but drainage: time, projected to the paper's 10,237, and memory.

    python benchmarks/score.py

One model's answers to all three questions are measured, on made-up terrain of 256 px, and compared with the least that
any score needs: the mean absolute error of the same arrays with NumPy. A network's own time to predict is not included.
"""

import resource
import time

import numpy as np
import pandas as pd
import torch

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.splits import PAPER_TILES
from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.evaluation.scoring import BATCH, QUESTIONS, ssim_scale, to_target
from sat2dem_core.models.device import processor

TILES, SIZE = 512, 256


def terrain(count: int, seed: int) -> torch.Tensor:
    """Three octaves of noise, (count, SIZE, SIZE) meters."""
    draws = torch.Generator().manual_seed(seed)
    octaves = [
        torch.nn.functional.interpolate(torch.randn(count, 1, cells, cells, generator=draws), SIZE, mode="bicubic")
        for cells in (4, 12, 36)
    ]
    return sum(1500 / 3**number * octave[:, 0] for number, octave in enumerate(octaves))


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    truth, answer = terrain(64, 0), terrain(64, 1)
    normalization = Normalization.fit("shift", truth.numpy())
    measures = {q: Measures((30.0, 30.0), ssim_scale(q, normalization), form=q == "relief") for q in QUESTIONS}
    seconds = {"all measures": 0.0, "MAE alone, NumPy": 0.0}
    peaks = []
    for _ in range(TILES // len(truth)):
        for known, predicted in zip(truth.split(BATCH), answer.split(BATCH)):
            start = time.perf_counter()
            for question, measure in measures.items():
                measure.update(to_target(predicted, question), to_target(known, question), elevation=known)
            middle = time.perf_counter()
            for question in QUESTIONS:
                np.abs(to_target(predicted, question).numpy() - to_target(known, question).numpy()).mean()
            seconds["all measures"] += middle - start
            seconds["MAE alone, NumPy"] += time.perf_counter() - middle
        peaks.append(peak_memory())
    table = pd.DataFrame({"what": seconds.keys(), "ms a tile": [1000 * spent / TILES for spent in seconds.values()]})
    table[f"{PAPER_TILES} tiles, minutes"] = table["ms a tile"] * PAPER_TILES / 60_000
    machine = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}; {TILES} tiles of {SIZE} px, three questions\n")
    print(table.round(1).to_markdown(index=False))
    print(f"\nPeak memory: {peaks[0]:.0f} MB after {len(truth)} tiles, {peaks[-1]:.0f} MB after {TILES}.")


if __name__ == "__main__":
    main()
