"""How far a score moves by arithmetic alone: the same seed with other instructions and another number of threads.

    python benchmarks/arithmetic.py [--out data/results/arithmetic.csv]

PyTorch adds up in an order that depends on the width of the processor's vectors and on the number of threads. Rounding
then differs in the last bit, and training carries the difference on. A difference between two settings that is smaller
than this spread says nothing. Each run is a process of its own, for the instructions are chosen when PyTorch starts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from sat2dem_core.models.device import processor
from sat2dem_core.rasters.atomic import replacing

INSTRUCTIONS, THREADS = ("avx512", "avx2"), (2, 1)
SETTINGS = {
    "U-Net": {"method": "unet"}, "U-Net with GAM": {"method": "unet", "attention": "gam"},
    "U-Net with gradient loss": {"method": "unet", "gradient": "first"}, "Pix2Pix": {"method": "pix2pix"},
    "DRPAN": {"method": "drpan"},
}
RUN = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[2]))
from sat2dem_core.study.runner import make_rows
[row], _ = make_rows({"preset": "cpu"} | json.loads(sys.argv[1]), "test", False)
print(json.dumps({"used": torch.backends.cpu.get_cpu_capability(), **{
    name: row[name] for name in ("absolute MAE", "above minimum MAE", "relief MAE", "relief slope MAE", "machine")
}}))
"""


def measure(settings: dict, instructions: str, threads: int) -> dict:
    """The scores of one run, which is trained anew."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "ATEN_CPU_CAPABILITY": instructions, "OMP_NUM_THREADS": str(threads), "SAT2DEM_CACHE": cache,
        }
        command = [sys.executable, "-c", RUN, json.dumps(settings), str(threads)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    rows = []
    for name, settings in SETTINGS.items():
        for instructions in INSTRUCTIONS:
            for threads in THREADS:
                rows.append({"setting": name, "instructions": instructions, "threads": threads})
                rows[-1] |= measure(settings, instructions, threads)
                print({key: rows[-1][key] for key in ("setting", "used", "threads", "relief MAE")}, flush=True)
    table = pd.DataFrame(rows)
    spread = table.groupby("setting", sort=False)[["absolute MAE", "above minimum MAE", "relief MAE"]]
    print(f"\n{processor()}\nLargest minus smallest, meters:\n{(spread.max() - spread.min()).round(2).to_string()}")
    if args.out:
        with replacing(args.out) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
