"""What every part needs: its sizes, its clock, and where its lines and numbers go.

Each part is a process of its own, so that a part that hangs or crashes costs the others nothing. Lines go to standard
output and to the part's section of the tables at once: what was measured before an end is kept.
"""

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.digest import digest
from sat2dem_core.models.device import half_type, pick_device, processor
from sat2dem_core.paths import repository

LOWEST, HIGHEST = -168.6189727783203, 3472.300537109375  # meters: the paper's range of elevations


@dataclass(frozen=True)
class Sizes:
    """The paper's sizes, or tiny ones.

    Attributes:
        tile: side of a tile, px.
        features: channels of the first level of all networks.
        batch: tiles a step.
        tiles: training tiles; the paper's are 7165.
        seconds: of the timing of a row.
        matrix: side of the matrices whose product gives the device's rate.
        side: of the image to predict, px.
    """

    tile: int = 256
    features: int = 64
    batch: int = 32
    tiles: int = 2048
    seconds: float = 0.6
    matrix: int = 8192
    side: int = 3660


DRY = Sizes(tile=32, features=16, batch=4, tiles=8, seconds=0.0, matrix=256, side=200)


class Report:
    """A part's clock, device and sizes; calling it prints a line and keeps it.

    Args:
        process: its name.
        folder: of the sections and of ``numbers.jsonl``.
        end: when it begins nothing new, seconds since 1970.
        dry: tiny sizes.
    """

    def __init__(self, process: str, folder: Path, end: float, dry: bool):
        self.end, self.dry = end, dry
        self.failed, self.passed = False, []
        self.section, self.numbers = folder / f"{process}.md", folder / "numbers.jsonl"
        self.sizes = DRY if dry else Sizes()
        self.device = pick_device()
        self.cuda = self.device.type == "cuda"
        self.half = half_type(self.device)
        self.half_name = str(self.half).removeprefix("torch.")

    def __call__(self, line: str = "") -> None:
        print(line, flush=True)
        with self.section.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def head(self, *columns: str) -> None:
        """Begin a table: the first column holds words, the others numbers."""
        self()
        self.row(*columns)
        self.row("---", *["---:"] * (len(columns) - 1))

    def row(self, *cells: str) -> None:
        self(f"| {' | '.join(cells)} |")

    def number(self, what: str, value: float | str) -> None:
        """Keep a number for the summary and for ``--table``."""
        with self.numbers.open("a", encoding="utf-8") as file:
            file.write(json.dumps([what, value]) + "\n")

    def left(self) -> float:
        """Seconds until the part must end."""
        return self.end - time.time()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def error_line(error: Exception) -> str:
    """An error in one line that a table can hold."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".replace("|", "/")


def machine(report: Report) -> str:
    """The line that says what ran where: device, versions, commit, and the digest of the code that trains."""
    memory = libraries = ""
    if report.cuda:
        memory = f", {torch.cuda.get_device_properties(report.device).total_memory / 2**30:.0f} GiB"
        libraries = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return (
        f"{processor()}{memory}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}{libraries}, commit {_commit()}, code {digest()}"
    )


def _commit() -> str:
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    command = ["git", "--git-dir", f"{repository()}/.git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (set COMMIT)"


def made_up(count: int, size: int) -> Tiles:
    """Random tiles: zeros would be multiplied faster than data."""
    draws = np.random.default_rng(0)
    rgb = draws.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    dem = draws.standard_normal((count, size, size), dtype=np.float32) * 200 + 800
    return Tiles(rgb, dem, tuple(map(str, range(count))), np.zeros((count, 2), int), (30.0, 30.0))


def data_of(tiles: Tiles) -> Data:
    """Tiles as training data, with a few of them for validation and test, in the paper's normalization with Shift."""
    few = tiles.take(list(range(min(128, len(tiles)))))
    return Data(tiles, few, few, Normalization("shift", LOWEST, HIGHEST, relief=2344.0))
