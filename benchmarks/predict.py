"""What predicting a large image costs: seconds and memory, beside the network alone on the same tiles.

    python benchmarks/predict.py [--side 3660] [--out benchmarks/results/predict.md]

The image is made: the embedded scene's, repeated in a mirror, on 30 m pixels. Each row is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch
from rasterio.transform import from_origin

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.models.device import processor
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.prediction.weights import load_weights
from sat2dem_core.rasters.atomic import replacing

TILE, BATCH = 128, 32


def make(path: Path, side: int) -> None:
    rgb = open_scene().rgb.values
    tiled = np.pad(rgb, ((0, 0), *((0, side - length) for length in rgb.shape[1:])), mode="symmetric")
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32613", "tiled": True}
    with rasterio.open(path, "w", transform=from_origin(400_000, 4_480_000, 30, 30), **profile) as file:
        file.write(tiled)


def one(what: str, image: Path) -> None:
    """Run one row and tell its seconds and peak memory."""
    model = load_weights().model
    with rasterio.open(image) as file:
        side = file.height
    began = time.perf_counter()
    if what == "predict":
        predict(image, image.with_name("dem.tif"), overwrite=True, caution=False, progress=False)
    else:  # the floor: the network on as many tiles, twice, as each is seen with its mirror image; nothing read or written
        tiles = torch.randint(0, 255, (BATCH, 3, TILE, TILE), dtype=torch.uint8)
        for _ in range(2 * len(starts(side, TILE, TILE // 2)) ** 2 // BATCH):
            model.predict(tiles.numpy(), BATCH)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=3660, help="px of the smaller image; the larger has four times the area")
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        return one(args.one[0], Path(args.one[1]))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (args.side, 2 * args.side):
            image = Path(folder) / f"{side}.tif"
            make(image, side)
            for what in ("network alone", "predict"):
                done = subprocess.run([sys.executable, __file__, "--one", what, image], capture_output=True, text=True, check=True)
                rows.append({"image": f"{side} x {side} px", "what": what} | json.loads(done.stdout))
            image.unlink()
    table = pd.DataFrame(rows)
    alone, whole = (table.seconds[table.what == what].to_numpy() for what in ("network alone", "predict"))
    machine = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    text = "\n".join([
        "# What predicting a large image costs", "",
        f"Weights that ship, tiles of {TILE} px at 50 % overlap, each seen with its mirror image, to a Cloud-Optimized GeoTIFF of three bands.",
        f"{machine}.", "", table.round(1).to_markdown(index=False), "",
        f"Four times the area: {whole[1] / whole[0]:.2f} times the seconds ({alone[1] / alone[0]:.2f} for the network alone).", "",
        "Made by `python benchmarks/predict.py`.", "",
    ])
    print(text)
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text(text)


if __name__ == "__main__":
    main()
