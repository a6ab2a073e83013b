"""torch.compile, in a process of its own: compilation takes long, may hang, and cannot be interrupted from within."""

from dataclasses import replace

import torch
from loops import OURS, Step, alone, memory, ours, paper, samples_per_second
from report import Report, data_of, error_line, made_up
from results import METHODS
from torch import Tensor

from sat2dem_core.models.device import float32_as

STEPS, TOLERANCE = 30, 0.05  # compiled dropout draws other masks: losses agree on average only
KINDS = {"graphs": "torch.compile with CUDA graphs", "no graphs": "torch.compile without CUDA graphs"}


def measure(report: Report) -> None:
    """For each method the rate with the package's ``compile=True``, and whether it learns as without."""
    report("## torch.compile")
    report()
    if not report.cuda:
        report("torch.compile and CUDA graphs are left out: they are for CUDA alone.")
        return
    report(
        "Added to all other switches. The loop learns from the same weights with it and without: over the second half "
        f"of {STEPS} steps, the mean losses may differ by {TOLERANCE:.0%}."
    )
    report.head("loop", "samples/s", "memory, GiB", "difference of the losses")
    data = data_of(made_up(report.sizes.tiles // 4, report.sizes.tile))
    for kind in KINDS:
        for name in ("unet", "pix2pix"):
            label = f"{METHODS[name]}: + {KINDS[kind]}"
            switches = replace(OURS, half=report.half is not None)
            if report.left() < 10:
                report.row(f"{label} (left out: the time is up)", "", "", "")
                continue
            try:
                wanted, _, _ = learn(report, ours(paper(report, name), switches, data, report.device, kept := []), kept)
                switches = replace(switches, compiled=kind)
                loop = ours(paper(report, name), switches, data, report.device, kept := [])
                reached, rate, used = learn(report, loop, kept, timed=True)
            except RuntimeError as error:
                report.failed = True
                report.row(f"{label} ({error_line(error)})", "", "", "")
                continue
            difference = abs(reached / wanted - 1)
            right = difference < TOLERANCE
            report.failed |= not right
            report.row(label, f"{rate:.4g}", used, f"{difference:.1%}{'' if right else ' FAILED'}")
            if right:
                report.number(label, rate)


def learn(report: Report, loop: Step, kept: list[Tensor], timed: bool = False) -> tuple[float, float, str]:
    """Take ``STEPS`` steps of a loop: the mean loss of their second half; then samples per second, and memory."""
    with alone(report, loop):
        with float32_as(OURS.tf32):
            for _ in range(STEPS):
                next(loop)
        mean = torch.stack(kept[STEPS // 2 :]).mean().item()
        return mean, samples_per_second(report, loop, OURS.tf32) if timed else 0.0, memory(report)
