"""The loops that are timed: the package's own with each switch on or off, and a plain one as the authors set it."""

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from report import HIGHEST, LOWEST, Report
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from sat2dem_core.config import Config, preset
from sat2dem_core.dataset.normalize import Normalization, scale_image
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.evaluation.measures import ssim
from sat2dem_core.models.device import float32_as
from sat2dem_core.models.losses import adversarial_loss, l1
from sat2dem_core.models.methods import Method, build_method
from sat2dem_core.models.networks import PatchGAN, UNet, initialize
from sat2dem_core.training.loader import Batches

METERS = (HIGHEST - LOWEST) / 2  # of one normalized unit
EPOCH = 224  # steps of the paper's
Step = Iterator[None]  # each next() is one training step


@dataclass(frozen=True)
class Switches:
    """Choices of the package's loop. All off is float32 as the paper's, without TF32, which the package leaves off.

    Attributes:
        resident: tiles lie on the device; otherwise a thread reads them ahead from the computer's memory.
        fused: one kernel updates all weights.
        half: 16 bits for convolutions (``precision="mixed"``).
        channels_last: the channels of a pixel lie side by side; the package sets it with 16 bits on CUDA.
        tf32: TF32 for what stays in float32.
        compiled: "" for no torch.compile; "graphs" for the package's ``compile=True``, which on CUDA includes CUDA
            graphs; "no graphs" for torch.compile alone.
    """

    resident: bool = False
    fused: bool = False
    half: bool = False
    channels_last: bool = False
    tf32: bool = False
    compiled: str = ""


OURS = Switches(resident=True, fused=True, half=True, channels_last=True, tf32=True)


def paper(report: Report, method: str, **changes: object) -> Config:
    """The paper's settings at this part's sizes."""
    sizes = report.sizes
    widths = {"features": sizes.features, "critic_features": sizes.features}
    return preset("paper", method=method, tile=sizes.tile, batch=sizes.batch, **widths, **changes)


def started(config: Config, device: torch.device) -> Method:
    """A method with random weights on the device, ready to train."""
    torch.manual_seed(0)
    with device:  # drawing 54 million weights on the host would take longer than timing them
        method = build_method(config)
    method.start(meters=METERS, gsd=(30.0, 30.0))
    return method.train()


def switched(config: Config, switches: Switches, device: torch.device) -> Method:
    """A method with these switches: those that the package ties together are set apart here."""
    precision = "mixed" if switches.half else "float32"
    method = started(replace(config, precision=precision, compile=switches.compiled == "graphs"), device)
    if not switches.fused:
        method.optimizers = {
            name: torch.optim.Adam(getattr(method, name).parameters(), 2e-4, (0.5, 0.999)) for name in method.optimizers
        }
    if device.type == "cuda":
        method.to(memory_format=torch.channels_last if switches.channels_last else torch.contiguous_format)
    if switches.compiled == "no graphs":
        for name, network in method.named_children():
            if name != "reviser":
                network.compile()
    return method


def ours(
    config: Config, switches: Switches, data: Data, device: torch.device, kept: list[Tensor] | None = None
) -> Step:
    """The package's loop as ``sat2dem_core.training.trainer`` runs it; ``kept`` gets the loss of every step."""
    batches = Batches(data, config, device, room=None if switches.resident else 0)
    method, number, step = switched(config, switches, device), 0, 0
    while True:
        losses = []
        for batch in batches.epoch(number):
            method.seed(2 * step)
            losses.append(method.step(batch.image, batch.dem, batch.weight)["loss"])
            step += 1
            if kept is not None:
                kept.append(losses[-1])
            yield
        torch.stack(losses).cpu()
        number += 1


class Folder(Dataset):
    """The authors' way to data: a file of the image and one of the normalized elevation, read for each sample.

    Theirs are GeoTIFFs. These are arrays as NumPy saves them, which are quicker to read: it favors the plain loop.
    """

    def __init__(self, folder: Path, tiles: Tiles, normalization: Normalization):
        self.folder, self.count = folder, len(tiles)
        normalized = normalization.forward(torch.from_numpy(tiles.dem))[0].numpy()[:, None]
        for number, (rgb, dem) in enumerate(zip(tiles.rgb, normalized)):
            np.save(folder / f"rgb_{number}.npy", rgb)
            np.save(folder / f"dem_{number}.npy", dem)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image = scale_image(torch.from_numpy(np.load(self.folder / f"rgb_{number}.npy")))
        dem = torch.from_numpy(np.load(self.folder / f"dem_{number}.npy"))
        for axis in (-1, -2):
            if torch.rand(()) < 0.5:
                image, dem = image.flip(axis), dem.flip(axis)
        return image, dem


def plain(config: Config, dataset: Folder, device: torch.device) -> Step:
    """The plain loop with the authors' settings: two workers, float32, all measures and losses of every batch.

    Every backward pass goes through all that it can reach, and PyTorch's own defaults decide about TF32.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = False  # PyTorch's default, which our loop changes
    adversarial = config.method != "unet"
    with device:
        generator = initialize(UNet(config.attention, config.features, config.tile))
        discriminator = initialize(PatchGAN(config.attention, config.critic_features))
    adam = {
        network: torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (generator, discriminator)
    }

    def descend(network: torch.nn.Module, loss: Tensor) -> float:
        adam[network].zero_grad()
        loss.backward()
        adam[network].step()
        return loss.item()

    sampler = RandomSampler(dataset, replacement=True, num_samples=EPOCH * config.batch)  # an epoch as long as theirs
    loader = DataLoader(dataset, config.batch, sampler=sampler, num_workers=2, persistent_workers=True)
    while True:
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            fake = generator(x)
            loss = config.l1_weight * l1(fake, y)
            if adversarial:
                real, faked = (discriminator(x, dem) for dem in (y, fake.detach()))
                descend(discriminator, (adversarial_loss(real, True) + adversarial_loss(faked, False)) / 2)
                loss = loss + adversarial_loss(discriminator(x, fake), True)
            descend(generator, loss)
            measure(fake.detach(), y, device)
            yield


def measure(fake: Tensor, y: Tensor, device: torch.device) -> list[float]:
    """MAE, RMSE and SSIM of a batch, on the host."""
    error = (fake - y) * METERS
    with device:  # its window is made where tensors are made by default
        similarity = ssim(((fake + 1) / 2).squeeze(1), ((y + 1) / 2).squeeze(1), 0.6439).mean()
    return [error.abs().mean().item(), error.square().mean().sqrt().item(), similarity.item()]


@contextmanager
def alone(report: Report, loop: Step) -> Iterator[Step]:
    """A loop with the device's memory to itself, which is counted from here and freed at the end."""
    gc.collect()
    if report.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(report.device)
    try:
        yield loop
    finally:
        loop.close()


def samples_per_second(report: Report, loop: Step, tf32: bool | None) -> float:
    """Median of three rates, after steps that warm up.

    Args:
        tf32: see :func:`sat2dem_core.models.device.float32_as`; None to leave PyTorch's own defaults.
    """
    def seconds(steps: int) -> float:
        report.wait()
        start = time.perf_counter()
        for _ in range(steps):
            next(loop)
        report.wait()
        return (time.perf_counter() - start) / steps

    def rate() -> float:
        seconds(1 if report.dry else 5)  # the choice of algorithms, caches, workers
        guess = seconds(1 if report.dry else 3)
        steps = max(1, round(report.sizes.seconds / 3 / guess))
        return report.sizes.batch / statistics.median(seconds(steps) for _ in range(1 if report.dry else 3))

    if tf32 is None:
        return rate()
    with float32_as(tf32):
        return rate()


def memory(report: Report) -> str:
    """The most that tensors took on the device since the loop began, GiB."""
    return f"{torch.cuda.max_memory_allocated(report.device) / 2**30:.1f}" if report.cuda else "–"
