"""Speed of training: samples per second of Pix2Pix at the paper's size (256 px, 64 features), data included.

First our loop compared with a plain one with the authors' settings (doi 10.1007/s41064-026-00393-y), which decodes two
GeoTIFFs for each sample in two workers, computes in float32, measures MAE, RMSE and SSIM on every training batch and
copies its losses to the host at each step, with batches of 32. Then our loop with each switch on and off, by default
with batches of 8 to save time. The two that are compared take turns, so that other work of the machine slows both.
Then the time of the ``cpu`` preset from import to the end of its first step.

Usage: python benchmarks/train.py [--batch 8] [--rounds 7] (writes results/training.md, or training-gpu.md on a GPU)
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from sat2dem_core.config import Config, preset
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.models.device import pick_device, processor
from sat2dem_core.models.methods import Method, build_method
from sat2dem_core.models.networks import PatchGAN, UNet, initialize
from sat2dem_core.training.loader import Batches

METERS = 3640.92  # the range of the paper's elevations; half of it is one normalized unit
Step = Iterator[None]  # each next() is one training step
FIRST_STEP = """
import time
started = time.perf_counter()
import os
from sat2dem_core.config import preset
from sat2dem_core.models import methods
from sat2dem_core.training.trainer import train
step = methods.Method.step

def timed(self, *batch):
    step(self, *batch)
    print(time.perf_counter() - started, flush=True)
    os._exit(0)

methods.Method.step = timed
train(preset("cpu"), run=os.environ["RUN"], progress=False)
"""


@dataclass(frozen=True)
class Switches:
    """Choices of our loop that the benchmark turns on and off."""

    mixed: bool = True
    fused: bool = True
    resident: bool = True
    shared: bool = True  # the generator's step computes no gradients of the discriminator's weights
    channels_last: bool = False
    compiled: bool = False
    ssim: bool = False  # on every training batch
    wait: bool = False  # for the losses of every step
    tf32: bool = True


def made_up(count: int) -> Tiles:
    """Random tiles of the paper's size."""
    draws = np.random.default_rng(0)
    rgb = draws.integers(0, 255, (count, 3, 256, 256), dtype=np.uint8)
    dem = draws.normal(800, 200, (count, 256, 256)).clip(-168, 3472).astype(np.float32)
    ids = tuple(str(number) for number in range(count))
    return Tiles(rgb, dem, ids, np.zeros((count, 2), int), (30.0, 30.0))


class Folder(Dataset):
    """The authors' way to data: a GeoTIFF of the image and one of the normalized elevation, decoded for each sample."""

    def __init__(self, folder: Path, tiles: Tiles, normalization: Normalization):
        self.folder, self.count = folder, len(tiles)
        normalized = normalization.forward(torch.from_numpy(tiles.dem))[0].numpy()[:, None]
        for kind, arrays in (("rgb", tiles.rgb), ("dem", normalized)):
            for number, array in enumerate(arrays):
                profile = {"driver": "GTiff", "height": 256, "width": 256, "count": len(array), "dtype": array.dtype}
                with rasterio.open(folder / f"{kind}_{number}.tif", "w", **profile) as file:
                    file.write(array)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these files have no georeference
            with rasterio.open(self.folder / f"rgb_{number}.tif") as file:
                image = torch.from_numpy(file.read()).float() / 127.5 - 1
            with rasterio.open(self.folder / f"dem_{number}.tif") as file:
                dem = torch.from_numpy(file.read())
        for axis in (-1, -2):
            if torch.rand(()) < 0.5:
                image, dem = image.flip(axis), dem.flip(axis)
        return image, dem


def endless(dataset: Folder, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        yield from loader


def pix2pix_step(
    generator, discriminator, optimizers, x: Tensor, y: Tensor, autocast: Callable | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step as the authors' code orders it: every backward pass goes through all that it can reach."""
    judge = lambda logits, real: F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
    with autocast() if autocast else torch.enable_grad():
        fake = generator(x)
        discriminator_loss = (judge(discriminator(x, y), True) + judge(discriminator(x, fake.detach()), False)) / 2
    optimizers["discriminator"].zero_grad()
    discriminator_loss.backward()
    optimizers["discriminator"].step()
    with autocast() if autocast else torch.enable_grad():
        loss = judge(discriminator(x, fake), True) + 100 * F.l1_loss(fake, y)
    optimizers["generator"].zero_grad()
    loss.backward()
    optimizers["generator"].step()
    return fake.detach(), {"loss": loss.detach(), "discriminator": discriminator_loss.detach()}


def measure_batch(fake: Tensor, y: Tensor) -> list[float]:
    error = (fake - y) * METERS / 2
    similarity = ssim((fake + 1) / 2, (y + 1) / 2, data_range=0.6439)
    return [error.abs().mean().item(), error.square().mean().sqrt().item(), similarity.item()]


def authors(dataset: Folder, batch: int, device: torch.device) -> Step:
    """The plain loop with the authors' settings."""
    torch.manual_seed(0)
    networks = {"generator": initialize(UNet()).to(device), "discriminator": initialize(PatchGAN()).to(device)}
    optimizers = {name: torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for name, net in networks.items()}
    sums = 0.0
    for x, y in endless(dataset, batch):
        x, y = x.to(device), y.to(device)
        fake, losses = pix2pix_step(*networks.values(), optimizers, x, y)
        sums += sum(loss.item() for loss in losses.values()) + sum(measure_batch(fake, y))
        yield


def started(config: Config, switches: Switches, device: torch.device) -> Method:
    torch.manual_seed(0)
    method = build_method(config).to(device)
    method.start(meters=METERS / 2, gsd=(30.0, 30.0))
    if not switches.fused:
        method.optimizers = {
            name: torch.optim.Adam(getattr(method, name).parameters(), 2e-4, (0.5, 0.999)) for name in method.optimizers
        }
    layout = torch.channels_last if switches.channels_last else torch.contiguous_format
    return method.to(memory_format=layout).train()


def ours(switches: Switches, config: Config, data: Data, dataset: Folder, device: torch.device) -> Step:
    """Our loop, as sat2dem_core.training.trainer runs it, with each switch as asked."""
    config = replace(config, precision="mixed" if switches.mixed else "float32", compile=switches.compiled)
    method, losses, number = started(config, switches, device), [], 0
    fakes = []
    if switches.ssim:
        method.generator.register_forward_hook(lambda network, given, fake: fakes.append(fake.detach()))
    batches = Batches(data, config, device)

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        if switches.resident:
            yield from ((batch.image, batch.dem) for batch in batches.epoch(number))
        else:
            yield from ((x.to(device), y.to(device)) for x, y in files)

    files = None if switches.resident else DataLoader(
        dataset, config.batch, shuffle=True, num_workers=2, persistent_workers=True
    )
    while True:
        for x, y in epoch():
            if device.type == "cuda":  # the two loops that take turns may differ in it
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = switches.tf32
            method.seed(len(losses))
            if switches.shared:
                losses.append(method.step(x, y))
            else:
                networks = method.generator, method.discriminator
                losses.append(pix2pix_step(*networks, method.optimizers, x, y, method.autocast)[1])
            if switches.ssim:
                measure_batch(fakes.pop(), y)
            if switches.wait:
                losses[-1]["loss"].item()
            yield
        torch.stack([step["loss"] for step in losses]).cpu()
        losses, number = [], number + 1


def seconds(loop: Step, steps: int, device: torch.device) -> float:
    """Mean time of a step."""
    started = time.perf_counter()
    for _ in range(steps):
        next(loop)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def duel(first: Step, second: Step, rounds: int, steps: int, device: torch.device) -> tuple[float, float, float]:
    """Median seconds per step of two loops that take turns, and the median ratio within a round, second to first."""
    for loop in (first, second):
        seconds(loop, 3 if device.type == "cuda" else 1, device)  # warm-up, compilation
    pairs = [(seconds(first, steps, device), seconds(second, steps, device)) for _ in range(rounds)]
    medians = [statistics.median(times) for times in zip(*pairs)]
    return medians[0], medians[1], statistics.median(b / a for a, b in pairs)


def multiplication_rate(kind: torch.dtype, device: torch.device) -> float:
    """FLOP per second at which the device multiplies large matrices, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b, best = *(torch.randn(size, size, device=device).to(kind) for _ in range(2)), 0.0
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def operations(config: Config, data: Data, dataset: Folder, device: torch.device) -> float:
    """FLOP per sample of one of our steps."""
    loop = ours(Switches(), config, data, dataset, device)
    with FlopCounterMode(display=False) as counter:
        next(loop)
    return counter.get_total_flops() / config.batch


def first_step_seconds(times: int = 3) -> float:
    """Time from the first import to the end of the first step of the cpu preset, in a new interpreter."""
    seconds = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", FIRST_STEP]
            done = subprocess.run(command, env=os.environ | {"RUN": folder}, capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout.split()[-1]))
    return statistics.median(seconds)


def turned(device: torch.device) -> dict[str, tuple[Switches, Switches]]:
    """Each switch, off and on."""
    best = Switches(channels_last=device.type == "cuda")
    pairs = {
        "16 bits (bfloat16, or float16 on older GPUs)": (replace(best, mixed=False), best),
        "channels-last": (replace(best, channels_last=False), replace(best, channels_last=True)),
        "fused optimizers": (replace(best, fused=False), best),
        "torch.compile" + (", CUDA graphs" if device.type == "cuda" else ""): (best, replace(best, compiled=True)),
        "resident data (off: two GeoTIFFs per sample)": (replace(best, resident=False), best),
        "no SSIM on training batches": (replace(best, ssim=True), best),
        "no wait for the losses of a step": (replace(best, wait=True), best),
        "discriminator's work shared": (replace(best, shared=False), best),
    }
    if device.type == "cuda":
        plain = replace(best, mixed=False)
        pairs["TF32, in float32"] = replace(plain, tf32=False), plain
    return pairs


class Report:
    """Lines that are printed at once and kept for the file of results."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)


def compare_with_authors(
    say: Report, paper: Config, data: Data, dataset: Folder, device: torch.device, rounds: int, steps: int
) -> None:
    """A table of our loop and the authors'."""
    work = operations(paper, data, dataset, device)
    rates = {kind: multiplication_rate(kind, device) for kind in (torch.float32, torch.bfloat16)}
    our_loop = ours(Switches(channels_last=device.type == "cuda"), paper, data, dataset, device)
    first, second, ratio = duel(our_loop, authors(dataset, paper.batch, device), rounds, steps, device)
    say("| loop | samples/s | TFLOP/s | share of the bfloat16 rate |\n| --- | ---: | ---: | ---: |")
    for name, seconds_per_step in (("authors' settings", second), ("ours", first)):
        rate = work * paper.batch / seconds_per_step
        samples = paper.batch / seconds_per_step
        say(f"| {name} | {samples:.2f} | {rate / 1e12:.3f} | {rate / rates[torch.bfloat16]:.0%} |")
    say(
        f"\nOurs is **{ratio:.2f} times** as fast. A sample takes {work / 1e9:.0f} GFLOP; matrices are multiplied at "
        f"{rates[torch.float32] / 1e12:.3f} TFLOP/s in float32 and {rates[torch.bfloat16] / 1e12:.3f} in bfloat16.\n"
    )


def compare_switches(
    say: Report, config: Config, data: Data, dataset: Folder, device: torch.device, rounds: int, steps: int
) -> None:
    """A table of our loop with each switch off and on."""
    say(f"Each switch, with batches of {config.batch}:\n")
    say("| switch | off, s per step | on, s per step | times as fast |\n| --- | ---: | ---: | ---: |")
    for name, (off, on) in turned(device).items():
        try:
            loops = [ours(switches, config, data, dataset, device) for switches in (on, off)]
            first, second, ratio = duel(*loops, rounds, steps, device)
            say(f"| {name} | {second:.3f} | {first:.3f} | {ratio:.2f} |")
        except RuntimeError as error:  # torch.compile finds no C++ compiler, for example
            say(f"| {name} | | | not possible here: {str(error).splitlines()[0][:80]} |")
        torch._dynamo.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="of the switches; default: the paper's 32 on a GPU, 8 elsewhere")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    device, say = pick_device(), Report()
    batch, steps = (args.batch or 32, 10) if device.type == "cuda" else (args.batch or 8, 1)
    paper = preset("paper", method="pix2pix")
    tiles = made_up(max(32, 4 * batch))
    data = Data(tiles, tiles, tiles, Normalization.fit("shift", tiles.dem))
    machine = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    say(
        f"# Training speed\n\nPix2Pix at the paper's size and batch of {paper.batch}. {machine}, "
        f"Python {platform.python_version()}, torch {torch.__version__}. Made by `python benchmarks/train.py`; medians "
        f"of {args.rounds} rounds in which the two that are compared take turns.\n"
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = Folder(Path(folder), tiles, data.normalization)
        compare_with_authors(say, paper, data, dataset, device, args.rounds, steps)
        compare_switches(say, replace(paper, batch=batch), data, dataset, device, args.rounds, steps)
    say(f"\nThe `cpu` preset takes {first_step_seconds():.1f} s from the first import to the end of the first step.")
    name = "training-gpu.md" if device.type == "cuda" else "training.md"
    (Path(__file__).parent / "results" / name).write_text("\n".join(say.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
