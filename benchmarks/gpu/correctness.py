"""Whether the package is right on the device: the authors' numbers, other formats, and resumed runs."""

import math
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from loops import METERS, paper
from report import Report, data_of, error_line, made_up
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import Sat2DEMError, Terminated
from sat2dem_core.models.attention import build_attention
from sat2dem_core.models.device import float32_as
from sat2dem_core.models.losses import Proposal, first_order
from sat2dem_core.models.methods import Method, build_method
from sat2dem_core.models.networks import PatchGAN, UNet
from sat2dem_core.training import train
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.loader import Batches

ROOT = Path(__file__).resolve().parents[2]
# The authors' numbers: all of them next to the tree or in a folder that git ignores, or a part.
ALL = ROOT.parent / "shared/parity/parity.npz", ROOT / "benchmarks/.parity/parity.npz"
PART = ROOT / "tests/reference/parity.npz"
Result = tuple[Tensor, Tensor, dict[str, Tensor]]
EVERY = {"attention": 4, "unet": 16, "discriminator": 2, "reviser": 2, "drpan": 4}  # pixel is in the part


def measure(report: Report) -> None:
    """A table of all checks; each has its tolerance."""
    report("## Correctness")
    report.head("check", "measured", "tolerance", "passed")
    for check in (parity, other_formats, other_device, streaming, resumed):
        name = check.__name__.replace("_", " ")
        if report.left() < 6:
            report.row(f"{name} (left out: the time is up)", "", "", "")
            continue
        try:
            check(report)
        except (RuntimeError, Sat2DEMError) as error:  # the other checks still say something
            line(report, f"{name} ({error_line(error)})", math.inf, 0.0)
    report.number("checks", len(report.passed))
    report.number("checks passed", sum(report.passed))
    if not report.cuda:
        report()
        report("TF32 and the comparison with the processor are left out: they are for CUDA alone.")


def line(report: Report, what: str, measured: float, tolerance: float) -> None:
    """A check's row; a number that is not finite never passes."""
    passed = bool(measured <= tolerance)
    report.failed |= not passed
    report.passed.append(passed)
    report.row(what, f"{measured:.2g}", f"{tolerance:.2g}", "yes" if passed else "NO")


def formula_weights(network: nn.Module) -> nn.Module:
    """The weights of the authors' numbers: parameter i, flat index k, s = sin(0.7 k + i); see tests/reference."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(network.named_parameters()):
            s = np.sin(0.7 * np.arange(parameter.numel(), dtype=np.float64) + i)
            if parameter.ndim > 1:
                s /= np.sqrt(parameter[0].numel())
            else:
                s = 1 + 0.1 * s if name.endswith("weight") else 0.1 * s
            parameter.copy_(torch.from_numpy(s).view(parameter.shape))
    return network.eval()


def ramp(shape: tuple[int, ...], a: float, b: float) -> Tensor:
    """Their inputs."""
    k = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(a * k + b * np.sin(0.0011 * k))).view(shape).float()


def parity(report: Report) -> None:
    """Networks, proposal and gradient loss in float32 compared with the authors' numbers."""
    path = next((path for path in (*ALL, PART) if path.exists()), None)
    if path is None:
        report.row("the authors' numbers (left out: neither parity.npz nor a part of it is here)", "", "", "")
        return
    theirs, device = np.load(path), report.device
    image, dem = ramp((1, 3, 256, 256), 0.0137, 5), ramp((1, 1, 256, 256), 0.0071, 7)
    cases = {f"attention.{name}": (build_attention(name, 32), ramp((2, 32, 16, 16), 0.37, 3)) for name in
             ("cbam", "gam", "simam")}
    for name in ("None",) if report.dry else ("None", "cbam", "gam", "simam"):
        cases[f"unet.{name}"] = UNet(name.lower(), features=16), image
        cases[f"discriminator.{name}"] = PatchGAN(name.lower()), image, dem
    cases["reviser"] = PatchGAN(), image, dem
    worst: dict[str, float] = {}

    def compare(name: str, ours: Tensor) -> None:
        kind = name.split(".")[0]
        pixels = ours.cpu().numpy()
        if path == PART and pixels.ndim > 2:
            pixels = pixels[..., :: EVERY[kind], :: EVERY[kind]]
        difference = np.abs(pixels - theirs[name]).max()
        worst[kind] = max(worst.get(kind, 0.0), float(difference))

    with torch.inference_mode(), float32_as(False):
        for name, (network, *inputs) in cases.items():
            compare(name, formula_weights(network).to(device)(*(x.to(device) for x in inputs)))
        real, fake = (ramp((4, 1, 256, 256), a, 0).to(device) for a in (0.017, 0.023))
        proposal = Proposal(256, 30)
        corner = proposal.corner(torch.sigmoid(2 * ramp((4, 1, 30, 30), 0.9, 11)).to(device))
        compare("drpan.region_xy", corner)
        compare("drpan.masked_dem", proposal.masked(real, fake, corner)[:, 0, ::4, ::4])
        compare("loss.gradient", first_order(fake, real))
    which = "a part of the authors' numbers" if path == PART else "the authors' numbers"
    for kind, difference in worst.items():
        line(report, f"{which}, {kind}: largest difference", difference, 1e-4)


def without_dropout(method: Method) -> Method:
    """Masks are drawn differently in each format and on each device."""
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return method.train()


def one_step(config: Config, device: torch.device, count: int) -> Result:
    """A step from weights that the seed gives: the generator's output, its loss, and the gradient of each network.

    All are on the host; gradients are those that the optimizers used.
    """
    torch.manual_seed(0)
    method = without_dropout(build_method(config).to(device))
    method.start(meters=METERS, gsd=(30.0, 30.0))
    draws = torch.Generator().manual_seed(1)
    image, dem = (torch.rand(count, n, config.tile, config.tile, generator=draws) * 2 - 1 for n in (3, 1))
    method.seed(2)
    with float32_as(config.tf32):
        with torch.no_grad(), method.autocast():
            output = method.generator(image.to(device))
        loss = method.step(image.to(device), dem.to(device))["loss"]
    gradients = {
        name: torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).cpu()
        for name, network in method.named_children()
    }
    return output.cpu(), loss.cpu(), gradients


def relative(ours: Tensor, reference: Tensor) -> float:
    """Length of the difference over the length of the reference."""
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


def compare_steps(report: Report, what: str, other: Result, reference: Result, tolerances: tuple[float, float]) -> None:
    """Rows of output and loss, and of the gradients, each group with its tolerance."""
    line(report, f"{what}: output", relative(other[0], reference[0]), tolerances[0])
    line(report, f"{what}: loss", relative(other[1], reference[1]), tolerances[0])
    for name, gradient in other[2].items():
        line(report, f"{what}: gradient of the {name}", relative(gradient, reference[2][name]), tolerances[1])


def other_formats(report: Report) -> None:
    """One step of Pix2Pix at full width in 16 bits and in TF32, compared with float32; see :func:`relative`."""
    config, count = paper(report, "pix2pix"), 2 if report.dry else 4
    gradients = 0.5 if report.dry else 0.15  # in a tiny network fewer roundings average out
    reference = one_step(config, report.device, count)
    if report.half is None:
        report.row("16 bits (left out: this device does not multiply them natively)", "", "", "")
    else:
        mixed = one_step(replace(config, precision="mixed"), report.device, count)
        compare_steps(report, f"{report.half_name} compared with float32", mixed, reference, (2e-2, gradients))
    if report.cuda:
        tf32 = one_step(replace(config, tf32=True), report.device, count)
        compare_steps(report, "TF32 compared with float32", tf32, reference, (3e-3, 3e-2))


def other_device(report: Report) -> None:
    """One step of DRPAN with GAM, the method with every kind of layer, compared with the processor's."""
    if not report.cuda:
        return
    config = paper(report, "drpan", attention="gam", gradient="first", drpan="flow")
    config = replace(config, tile=64, features=16, critic_features=16)
    steps = [one_step(config, device, 4) for device in (report.device, torch.device("cpu"))]
    compare_steps(report, "DRPAN with GAM compared with the processor", *steps, (1e-4, 1e-2))


def streaming(report: Report) -> None:
    """Batches that are read ahead from the computer's memory must equal those of resident tiles."""
    config, data = paper(report, "unet"), data_of(made_up(8 * report.sizes.batch, report.sizes.tile))
    resident, streamed = (Batches(data, config, report.device, room=room).epoch(1) for room in (None, 0))
    differences = [
        float((a != b).sum()) for pair in zip(resident, streamed, strict=True)
        for a, b in ((pair[0].image, pair[1].image), (pair[0].dem, pair[1].dem))
    ]
    line(report, "streamed batches compared with resident ones: pixels that differ", sum(differences), 0)


def resumed(report: Report) -> None:
    """A run that SIGTERM ends in the middle of an epoch must go on to the weights of a run that was never interrupted.

    Some layers add in no fixed order on CUDA even with deterministic algorithms: then two runs that were never
    interrupted differ as well, and a resumed one may differ five times as much, or by what rounding does. Other masks
    of dropout would make a difference of a quarter.
    """
    data = data_of(made_up(32, 32))
    for precision in ("float32",) if report.half is None else ("float32", "mixed"):
        config = replace(
            paper(report, "drpan", precision=precision), tile=32, features=16, critic_features=16, batch=8, epochs=2
        )
        with tempfile.TemporaryDirectory() as folder, deterministic():
            runs = [Path(folder) / name for name in ("once", "again", "resumed")]
            for run in runs[:2]:
                train(config, data=data, run=run, progress=False)
            with terminated_after(6), suppress(Terminated):
                train(config, data=data, run=runs[2], progress=False)
            stopped = load_checkpoint(runs[2] / "last.json")[1]["step"]
            train(config, data=data, run=runs[2], progress=False)
            once, again, gone_on = (state(run) for run in runs)
        tolerance = max(5 * relative(again, once), 1e-5) if report.cuda else 0.0
        what = f"run in {precision}, interrupted after step {stopped} of 8: weights and optimizers"
        line(report, what, relative(gone_on, once), tolerance)
        report.failed |= stopped != 6


def state(run: Path) -> Tensor:
    """All that a run's last checkpoint holds, in one vector."""
    tensors, _ = load_checkpoint(run / "last.json")
    return torch.cat([tensor.flatten().double() for _, tensor in sorted(tensors.items())])


@contextmanager
def terminated_after(steps: int) -> Iterator[None]:
    """During the context, this process gets SIGTERM after so many steps of training."""
    step, taken = Method.step, 0

    def counted(method: Method, *batch: Tensor) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        losses = step(method, *batch)
        if taken == steps:
            signal.raise_signal(signal.SIGTERM)
        return losses

    Method.step = counted
    try:
        yield
    finally:
        Method.step = step


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, wherever there are any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
