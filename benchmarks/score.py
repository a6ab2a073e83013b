"""What it costs to score many tiles with every measure but drainage: time, projected to the paper's 10,237, and memory.

    python benchmarks/score.py

One model's answers to all three questions are measured, on made-up terrain of 256 px; beside them stands the least that any
score needs, the mean absolute error of the same arrays with NumPy. The answers themselves, a network's work, are not timed.
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
    draws = torch.Generator().manual_seed(seed)
    return sum(
        1500 / 3**octave * torch.nn.functional.interpolate(torch.randn(count, 1, cells, cells, generator=draws), SIZE, mode="bicubic")[:, 0]
        for octave, cells in enumerate((4, 12, 36))
    )


truth, answer = terrain(64, 0), terrain(64, 1)
normalization = Normalization.fit("shift", truth.numpy())
measures = {q: Measures((30.0, 30.0), ssim_scale(q, normalization), form=q == "relief") for q in QUESTIONS}
rows, seen, floor, spent, early = [], 0, 0.0, 0.0, 0
while seen < TILES:
    for start in range(0, len(truth), BATCH):
        known, predicted = truth[start : start + BATCH], answer[start : start + BATCH]
        begun = time.perf_counter()
        for question, measure in measures.items():
            measure.update(to_target(predicted, question), to_target(known, question), elevation=known)
        spent += time.perf_counter() - begun
        begun = time.perf_counter()
        for question in QUESTIONS:
            np.abs(to_target(predicted, question).numpy() - to_target(known, question).numpy()).mean()
        floor += time.perf_counter() - begun
        seen += len(known)
    early = early or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, seconds in {"all measures": spent, "MAE alone, NumPy": floor}.items():
    rows.append({"what": name, "ms a tile": 1000 * seconds / seen, f"{PAPER_TILES} tiles, minutes": seconds / seen * PAPER_TILES / 60})
print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {seen} tiles of {SIZE} px, three questions\n")
print(pd.DataFrame(rows).round(1).to_markdown(index=False))
print(f"\nPeak memory: {early / 1024:.0f} MB after 64 tiles, {peak / 1024:.0f} MB after {seen}.")
