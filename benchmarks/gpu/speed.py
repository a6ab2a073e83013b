"""How fast the package trains at the paper's size, compared with a plain loop and with the device's matrix rate."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from loops import OURS, Folder, Step, Switches, alone, memory, ours, paper, plain, samples_per_second, started
from report import Report, data_of, error_line, made_up
from results import ATTENTIONS, METHODS, PLAIN
from torch.utils.flop_counter import FlopCounterMode

from sat2dem_core.config import Config
from sat2dem_core.dataset.parts import Data
from sat2dem_core.errors import Sat2DEMError
from sat2dem_core.training import trainer



@dataclass(frozen=True)
class Scale:
    """What a method's rates are compared with.

    Attributes:
        work: FLOP that a sample needs; what a loop computes in vain is not counted, so that shares can be compared.
        peak: FLOP per second of matrix products.
        plainly: samples per second of the plain loop, 0 where unknown.
    """

    work: float
    peak: float
    plainly: float = 0.0


def measure(report: Report) -> None:
    """All tables of training but those of torch.compile, the most important first."""
    sizes, data = report.sizes, data_of(made_up(report.sizes.tiles, report.sizes.tile))
    report("## Training")
    report()
    report(
        f"Tiles of {sizes.tile} px, {sizes.features} features, batches of {sizes.batch}, data included; medians of "
        "three timings after steps that warm up."
    )
    report()
    peak = matrix_rate(report)
    scales = {name: Scale(operations(report, paper(report, name)), peak) for name in ("pix2pix", "unet")}
    for name, scale in scales.items():
        report.number(f"{METHODS[name]}: operations", scale.work / 1e9)
        report(f"{METHODS[name]} takes {scale.work / 1e9:.3g} GFLOP for each sample, forward and backward.")
    report(left_out(report))
    head(report)
    with tempfile.TemporaryDirectory() as folder:
        files = Folder(Path(folder), data.train.take(list(range(min(512, len(data.train))))), data.normalization)
        for name, scale in scales.items():
            loop = plain(paper(report, name), files, report.device)
            scales[name] = replace(scale, plainly=timed_row(report, name, PLAIN, loop, None, scale))
    rows_of(report, ladder(report), data, scales)
    whole_run(report, data)
    report()
    report("Switches alone, each added to the first row of the package's loop:")
    head(report)
    rows_of(report, by_itself(report), data, scales, reserve=16)
    combinations(report, data)


def left_out(report: Report) -> str:
    """Which switches this device does not have."""
    sentences = []
    if report.half is None:
        sentences.append("16 bits are left out: this device does not multiply them natively.")
    if not report.cuda:
        sentences.append("Channels-last, TF32, torch.compile and CUDA graphs are left out: they are for CUDA alone.")
    return " ".join(sentences)


def matrix_rate(report: Report) -> float:
    """FLOP per second at which the device multiplies large random matrices of the 16-bit type; measured once."""
    size, kind = report.sizes.matrix, report.half or torch.float32
    a, b = (torch.randn(size, size, device=report.device).to(kind) for _ in range(2))
    times = []
    for _ in range(5 if report.dry else 25):
        report.wait()
        start = time.perf_counter()
        a @ b
        report.wait()
        times.append(time.perf_counter() - start)
    rate, name = 2 * size**3 / statistics.median(times[len(times) // 5 :]), str(kind).removeprefix("torch.")
    report(f"Matrices of {size} x {size} are multiplied at {rate / 1e12:.3g} TFLOP/s in {name}.")
    report.number("matrix rate", rate / 1e12)
    return rate


def operations(report: Report, config: Config) -> float:
    """FLOP of convolutions and matrix products, forward and backward, for each sample of a step."""
    method = started(config, report.device)
    torch.backends.cudnn.benchmark = False  # no time to choose algorithms for a step that is not timed
    image, dem = (torch.rand(2, bands, config.tile, config.tile, device=report.device) for bands in (3, 1))
    with FlopCounterMode(display=False) as counter:
        method.step(image, dem)
    return counter.get_total_flops() / 2


def ladder(report: Report) -> dict[str, Switches]:
    """Switches added one after the other."""
    switches = Switches()
    rows = {"float32, data from the host": switches}
    for name, change in _changes(report).items():
        switches = rows[f"+ {name}"] = replace(switches, **change)
    return rows


def by_itself(report: Report) -> dict[str, Switches]:
    """Each switch alone but resident data, which comes first on the ladder."""
    changes = list(_changes(report).items())[1:]
    return {f"{name} alone": replace(Switches(), **change) for name, change in changes}


def _changes(report: Report) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {"resident data": {"resident": True}, "fused Adam": {"fused": True}}
    if report.half is not None:
        changes[report.half_name] = {"half": True}
    if report.cuda:
        changes |= {"channels-last": {"channels_last": True}, "TF32": {"tf32": True}}
    return changes


def head(report: Report) -> None:
    report.head("loop", "samples/s", "times the plain loop", "TFLOP/s", "share of the matrix rate", "memory, GiB")


def rows_of(
    report: Report, rows: dict[str, Switches], data: Data, scales: dict[str, Scale], reserve: float = 0.0
) -> None:
    """A row for each method and choice of switches, as long as so many seconds stay for what follows."""
    for name, scale in scales.items():
        for label, switches in rows.items():
            loop = ours(paper(report, name), switches, data, report.device)
            timed_row(report, name, label, loop, switches.tf32, scale, reserve)


def timed_row(
    report: Report, name: str, label: str, loop: Step, tf32: bool | None, scale: Scale, reserve: float = 0.0
) -> float:
    """Time a loop and write its row; returns samples per second, 0 where it does not run or the time is up."""
    label = f"{METHODS[name]}: {label}"
    if report.left() < reserve + 3 + 2 * report.sizes.seconds:
        return _empty(report, label, "left out: the time is up")
    try:
        with alone(report, loop):
            rate = samples_per_second(report, loop, tf32)
            times, speed = f"{rate / scale.plainly:.2f}" if scale.plainly else "–", scale.work * rate
            report.row(
                label, f"{rate:.4g}", times, f"{speed / 1e12:.3g}", f"{speed / scale.peak:.1%}", memory(report)
            )
    except RuntimeError as error:
        report.failed = True
        return _empty(report, label, error_line(error))
    report.number(label, rate)
    return rate


def _empty(report: Report, label: str, reason: str) -> float:
    report.row(f"{label} ({reason})", *[""] * 5)
    return 0.0


def whole_run(report: Report, data: Data) -> None:
    """What a run of ``train`` spends on a training tile, a validation tile and a checkpoint, with files as they are."""
    report()
    if report.left() < 20 and not report.dry:
        report("A run with validation and checkpoints is left out: the time is up.")
        return
    precision = "float32" if report.half is None else "mixed"
    config = paper(report, "pix2pix", precision=precision, tf32=report.cuda, epochs=2)
    few = replace(data, train=data.train.take(list(range(min(1024, len(data.train))))))
    epochs: list[float] = []
    validations: list[float] = []
    saves: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder, timed(report, trainer._Trainer, "_epoch", epochs),
        timed(report, trainer._Trainer, "_validation_mae", validations),
        timed(report, trainer, "save_checkpoint", saves),
    ):
        try:
            trainer.train(config, data=few, run=folder, progress=False)
        except (RuntimeError, Sat2DEMError) as error:  # what follows still says something
            report.failed = True
            report(f"A run of `train` failed: {error_line(error)}.")
            return
    costs = {
        "training tile": epochs[-1] / len(few.train), "validation tile": validations[-1] / len(few.validation),
        "checkpoint": statistics.median(saves),
    }
    for what, seconds in costs.items():
        report.number(f"run: {what}", seconds)
    tile, scored, checkpoint = costs.values()
    report(
        f"A run of `train` with Pix2Pix, {precision}, spends {1e3 * tile:.3g} ms on a training tile, "
        f"{1e3 * scored:.3g} ms on a validation tile and {checkpoint:.2g} s on each checkpoint."
    )


@contextmanager
def timed(report: Report, owner: Any, name: str, seconds: list[float]) -> Iterator[None]:
    """During the context, every call of a function adds the seconds that it took."""
    function = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        report.wait()
        start = time.perf_counter()
        result = function(*args, **kwargs)
        report.wait()
        seconds.append(time.perf_counter() - start)
        return result

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, function)


def combinations(report: Report, data: Data) -> None:
    """Samples per second of every method and attention with the gradient loss, the dearer half of the paper's runs.

    Where the time is up, operations are counted in place of that: the summary projects a rate from them.
    """
    report()
    report("All methods and attentions of the paper, with the first-order gradient loss and every switch but compile:")
    report.head("method", *(f"{name}, samples/s" for name in ATTENTIONS))
    switches = replace(OURS, half=report.half is not None, tf32=report.cuda)
    for name in METHODS:
        cells = []
        for attention in ATTENTIONS:
            config = paper(report, name, attention=attention, gradient="first")
            if report.left() < 5:
                cells.append("left out")
                if report.left() > 0:
                    report.number(f"{name}, {attention}: operations", operations(report, config) / 1e9)
                continue
            try:
                with alone(report, ours(config, switches, data, report.device)) as loop:
                    rate = samples_per_second(report, loop, switches.tf32)
                    report.number(f"{name}, {attention}", rate)
                    cells.append(f"{rate:.4g}")
            except RuntimeError as error:
                report.failed = True
                cells.append(error_line(error))
        report.row(METHODS[name], *cells)
