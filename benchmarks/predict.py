"""What predicting a large image costs: seconds and memory, compared with the network alone on the same number of tiles.

    python benchmarks/predict.py [--side 3660] [--out benchmarks/results/predict.md]

The image is synthetic: the embedded scene's, repeated by reflection, on 30 m pixels. Each row runs in its own process.
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


def write_image(path: Path, side: int) -> None:
    """Write a GeoTIFF of ``side`` x ``side`` px."""
    rgb = open_scene().rgb.values
    tiled = np.pad(rgb, ((0, 0), *((0, side - length) for length in rgb.shape[1:])), mode="symmetric")
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "tiled": True}
    grid = {"crs": "EPSG:32613", "transform": from_origin(400_000, 4_480_000, 30, 30)}
    with rasterio.open(path, "w", **profile, **grid) as file:
        file.write(tiled)


def measure(what: str, image: Path) -> None:
    """Run one row, and print its seconds and peak memory."""
    model = load_weights().model
    with rasterio.open(image) as file:
        side = file.height
    start = time.perf_counter()
    if what == "predict":
        out, half = image.with_name("dem.tif"), image.with_name("interval.tif")
        predict(image, out, interval=half, overwrite=True, caution=False, progress=False)
    else:
        # The lower bound: the network on as many tiles, each with its mirror image, without input or output.
        tiles = torch.randint(0, 255, (BATCH, 3, TILE, TILE), dtype=torch.uint8)
        for _ in range(2 * len(starts(side, TILE, TILE // 2)) ** 2 // BATCH):
            model.predict(tiles.numpy(), BATCH)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measure_all(sides: tuple[int, int]) -> pd.DataFrame:
    """One row for the network alone and one for ``predict``, for images of each size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            image = Path(folder) / f"{side}.tif"
            write_image(image, side)
            for what in ("network alone", "predict"):
                command = [sys.executable, __file__, "--one", what, str(image)]
                done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
                rows.append({"image": f"{side} x {side} px", "what": what} | json.loads(done.stdout))
            image.unlink()
    return pd.DataFrame(rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--side", type=int, default=3660, help="px of the smaller image; the larger has four times the area"
    )
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        return measure(args.one[0], Path(args.one[1]))
    table = measure_all((args.side, 2 * args.side))
    alone, whole = (table.seconds[table.what == what].to_numpy() for what in ("network alone", "predict"))
    text = f"""# What predicting a large image costs

The shipped weights, on tiles of {TILE} px that overlap by 50 %, each predicted with its mirror image, to a
Cloud-Optimized GeoTIFF, with its interval in another.
{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}.

{table.round(1).to_markdown(index=False)}

Four times the area takes {whole[1] / whole[0]:.2f} times the seconds ({alone[1] / alone[0]:.2f} for the network alone).

Made by `python benchmarks/predict.py`.
"""
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
