"""How relief grows with the size of a pixel: the exponent that the shipped weights' units rest on.

    python benchmarks/relief.py [--out benchmarks/results/relief.md]

Each scene is averaged to coarser pixels. Relief is the mean distance from the mean of tiles of 64 px, over the part that
the weights were trained on.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from sat2dem_core.dataset.augment import HURST
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import divide
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.grids import ground_sampling_distance

SIDE, FACTORS = 64, (1, 2, 4, 8)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    rows = []
    for name in ("zion", "rocky-mountain"):
        region = divide(open_scene(name))[0]
        gsd = float(np.sqrt(np.prod(ground_sampling_distance(region))))
        for factor in FACTORS:
            dem = region.dem.coarsen(y=factor, x=factor, boundary="trim").mean().values
            tiles = [
                dem[row : row + SIDE, column : column + SIDE]
                for row in range(0, dem.shape[0] - SIDE + 1, SIDE // 2) for column in range(0, dem.shape[1] - SIDE + 1, SIDE // 2)
            ]
            relief = [np.abs(tile - tile.mean()).mean() for tile in tiles if np.isfinite(tile).all()]
            if relief:
                rows.append({"scene": name, "pixel, m": gsd * factor, "tiles": len(relief), "relief, m": float(np.mean(relief))})
    table = pd.DataFrame(rows)
    zion = table[table.scene == "zion"]
    exponent = np.polyfit(np.log(zion["pixel, m"]), np.log(zion["relief, m"]), 1)[0]
    text = "\n".join([
        "# How relief grows with the size of a pixel", "", f"Mean distance from the mean of tiles of {SIDE} px, training parts.", "",
        table.round(1).to_markdown(index=False), "",
        f"Over Zion's pixel sizes relief grows with the pixel to the power of {exponent:.2f}; the shipped weights use {HURST}.", "",
        "Made by `python benchmarks/relief.py`.", "",
    ])
    print(text)
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text(text)


if __name__ == "__main__":
    main()
