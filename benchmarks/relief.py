"""How relief grows with the size of a pixel: the exponent behind the units of the shipped weights.

    python benchmarks/relief.py [--out benchmarks/results/relief.md]

Each scene is averaged to coarser pixels. Relief is the mean distance from the mean of tiles of 64 px, over the part
that the weights were trained on.
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


def reliefs(dem: np.ndarray) -> list[float]:
    """Mean distance from the mean of each tile without nodata, meters; tiles overlap by half."""
    corners = [range(0, length - SIDE + 1, SIDE // 2) for length in dem.shape]
    tiles = (dem[row : row + SIDE, column : column + SIDE] for row in corners[0] for column in corners[1])
    return [float(np.abs(tile - tile.mean()).mean()) for tile in tiles if np.isfinite(tile).all()]


def measure(name: str) -> list[dict]:
    """A row for each size of pixel of a scene."""
    region = divide(open_scene(name))[0]
    gsd = float(np.sqrt(np.prod(ground_sampling_distance(region))))
    rows = []
    for factor in FACTORS:
        relief = reliefs(region.dem.coarsen(y=factor, x=factor, boundary="trim").mean().values)
        if relief:
            mean = float(np.mean(relief))
            rows.append({"scene": name, "pixel, m": gsd * factor, "tiles": len(relief), "relief, m": mean})
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    table = pd.DataFrame(measure("zion") + measure("rocky-mountain"))
    zion = table[table.scene == "zion"]
    exponent = np.polyfit(np.log(zion["pixel, m"]), np.log(zion["relief, m"]), 1)[0]
    text = f"""# How relief grows with the size of a pixel

Mean distance from the mean of tiles of {SIDE} px, training parts.

{table.round(1).to_markdown(index=False)}

Over Zion's pixel sizes relief grows with the pixel to the power of {exponent:.2f}; the shipped weights use {HURST}.

Made by `python benchmarks/relief.py`.
"""
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
