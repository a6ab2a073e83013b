"""Cost of attention: seconds and operations of a Pix2Pix step at the paper's size (256 px, 64 features, float32).

Our GAM is compared with the form of its article, in which linear layers move the channels to the end and back.

Usage: python benchmarks/attention.py [--batch 4] [--repeats 5]
"""

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sat2dem_core.config import preset
from sat2dem_core.models import attention
from sat2dem_core.models.device import processor
from sat2dem_core.models.methods import Method, build_method


class PublishedChannel(attention.GlobalChannel):
    """GAM's channel half with the layers of its article."""

    def forward(self, x: Tensor) -> Tensor:
        weights = self.channel_mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x * torch.sigmoid(weights)


class PublishedSpatial(attention.GlobalSpatial):
    """GAM's spatial half, layer by layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.spatial_attention(x))


class PublishedGAM(attention.GAM):
    """GAM of these two halves."""

    def __init__(self, channels: int, form: str):
        super().__init__(channels, form)
        self.channel_attention = PublishedChannel(channels, 16)
        self.spatial_attention = PublishedSpatial(channels, 16, form)


def method(name: str) -> Method:
    torch.manual_seed(0)
    built = build_method(preset("paper", method="pix2pix", attention=name))
    built.start(meters=1.0, gsd=(30.0, 30.0))
    return built


def measure(names: list[str], batch: int, repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each repeat, the names taking turns, and operations per sample in GFLOP."""
    image, dem = torch.rand(batch, 3, 256, 256) * 2 - 1, torch.rand(batch, 1, 256, 256) * 2 - 1
    methods, seconds, operations = {name: method(name) for name in names}, {name: [] for name in names}, {}
    for name, built in methods.items():  # also the warm-up
        with FlopCounterMode(display=False) as counter:
            built.step(image, dem)
        operations[name] = counter.get_total_flops() / batch / 1e9
    for _ in range(repeats):
        for name, built in methods.items():
            started = time.perf_counter()
            built.step(image, dem)
            seconds[name].append(time.perf_counter() - started)
    return seconds, operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    attention.ATTENTIONS["gam, as published"] = PublishedGAM
    names = ["none", "simam", "cbam", "gam", "gam, as published"]
    seconds, operations = measure(names, args.batch, args.repeats)
    print(f"Pix2Pix step, batch {args.batch}, 256 px, float32, {processor()}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}; median of {args.repeats}, ratios within each round\n")
    print("| attention | s per step | times none | GFLOP per sample | times none |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["none"]))
        print(f"| {name} | {statistics.median(seconds[name]):.2f} | {ratio:.2f} "
              f"| {operations[name]:.1f} | {operations[name] / operations['none']:.2f} |")


if __name__ == "__main__":
    main()
