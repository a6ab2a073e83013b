"""What anchors cost beyond the prediction: seconds and memory by the number of pixels and of anchors.

    python benchmarks/anchor_cost.py --out benchmarks/results/anchor_cost.md

A made-up mosaic is tied to a DEM of cells of 1 and 3 px, and to points. The floor is SciPy's zoom of the same cells,
the least that a spline surface costs.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from scipy.ndimage import zoom

from sat2dem_core.models.device import processor
from sat2dem_core.prediction.anchors import Anchors, fit_anchors
from sat2dem_core.prediction.pieces import ROWS
from sat2dem_core.prediction.support import measure_support
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.grids import Grid

SIDES = 1581, 3162  # px: 2.5 and 10 million pixels
CASES = {"DEM, cells of 1 px": 1, "DEM, cells of 3 px": 3, "1,000,000 points, plane": 0, "floor: zoom of 3 px cells": 3}


def measure(case: str, side: int) -> dict[str, float]:
    """One row: seconds of fit, support and surface, and peak memory."""
    rng, cell = np.random.default_rng(0), CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "mosaic.zarr"
        cog.scratch(store, Grid(None, (30, 0, 0, 0, -30, 0), side, side), ROWS)["elevation"][:] = _hills(side)
        if cell:
            count = -(-side // cell)
            heights = _hills(count) + 2000.0 + rng.normal(0, 5, (count, count))
            anchors = Anchors("a DEM", "cells", (side, side), heights, cell, None, "")
        else:
            places = {name: rng.integers(0, side, 1_000_000) for name in ("row", "column")}
            points = pd.DataFrame(places | {"height": rng.normal(2000, 30, 1_000_000)})
            anchors = Anchors("points", "plane", (side, side), None, 1, points, "")
        start = time.perf_counter()
        if case.startswith("floor"):
            zoom(anchors.cells, cell, order=3)
        else:
            fit = fit_anchors(anchors, store)
            measure_support(fit, anchors, zarr.open_group(store, mode="r"), 128)
            for top in range(0, side, ROWS):
                fit.surface(top, min(top + ROWS, side))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _hills(side: int) -> np.ndarray:
    rows, columns = np.linspace(0, 9, side)[:, None], np.linspace(0, 7, side)
    return (300 * np.sin(rows) * np.cos(columns)).astype(np.float32)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        return print(json.dumps(measure(args.one[0], int(args.one[1]))))
    rows = []
    for case in CASES:
        made = []
        for side in SIDES:
            command = [sys.executable, __file__, "--one", case, str(side)]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
            made.append(json.loads(done.stdout))
        exponent = math.log(made[1]["seconds"] / made[0]["seconds"]) / math.log(SIDES[1] ** 2 / SIDES[0] ** 2)
        rows.append({
            "anchors": case, **{f"{side**2 / 1e6:.1f} Mpx, s": row["seconds"] for side, row in zip(SIDES, made)},
            "exponent": exponent, "MB": made[1]["MB"],
        })
    text = f"""# What anchors cost

Fit, blunders, support and surface, beyond the prediction. {processor()}, {torch.get_num_threads()} threads.

{pd.DataFrame(rows).round(2).to_markdown(index=False)}

The exponent is that of the number of pixels. Made by `python benchmarks/anchor_cost.py`.
"""
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
