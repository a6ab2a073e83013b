"""Training of the refiner: seeded, resumable, in 16 bits where the processor has them.

The loss is the mean absolute error in units of the coarse DEM's local relief, plus that of its differences between
neighbors, the paper's gradient loss. What is validated and kept is the moving average of the weights.
"""

import copy
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sat2dem_core.digest import digest
from sat2dem_core.errors import NonFiniteLoss, RunExists, Terminated
from sat2dem_core.models.device import half_type, pick_device
from sat2dem_core.models.refiner import Refiner, look
from sat2dem_core.rasters.atomic import claimed
from sat2dem_core.training.checkpoints import load_whole, save_checkpoint
from sat2dem_core.training.lessons import Lesson, Lessons
from sat2dem_core.training.muon import Muon
from sat2dem_core.training.sigterm import Sigterm

SAVE_SECONDS = 300
MEANING = ("refiner", "lessons", "refining", "muon", "coarse", "sun")  # the modules that decide what is learned


@dataclass(frozen=True)
class Recipe:
    """How a refiner is trained.

    Attributes:
        widths: of the network.
        size: side of a window, px.
        batch: windows in a step.
        steps: number of updates.
        learning_rate: the largest of Muon, for the kernels within the network; it rises over a twentieth of the steps,
            and falls to zero over the last 60 %.
        adam_rate: likewise of AdamW, for all other parameters.
        gradient_weight: of the error of differences between neighbors.
        weight_decay: of Muon.
        ema: share of the moving average that each step keeps.
        seed: of the initial weights and of the windows.
    """

    widths: tuple[int, ...] = (64, 96, 128, 128)
    size: int = 160
    batch: int = 6
    steps: int = 800
    learning_rate: float = 0.02
    adam_rate: float = 2e-3
    gradient_weight: float = 2.0
    weight_decay: float = 1e-2
    ema: float = 0.99
    seed: int = 0


def refining_loss(network: Callable[[Tensor], Tensor], batch: dict[str, Tensor], gradient_weight: float) -> Tensor:
    """The loss of a batch of lessons, stacked by :func:`stacked`."""
    with torch.no_grad():
        seen, unit = look(*(batch[name] for name in ("image", "surface", "cell", "gsd", "azimuth")))
    device = seen.device
    reduced = half_type(device)
    with torch.autocast(device.type, reduced, enabled=reduced is not None):
        predicted = network(seen.contiguous(memory_format=torch.channels_last))
    known = batch["known"]
    error = (predicted.float() - (batch["truth"] - batch["surface"]) / unit[:, 0]) * known
    pixels = known.sum().clamp(min=1)
    down = error.diff(dim=1).abs() * known[:, 1:] * known[:, :-1]
    along = error.diff(dim=2).abs() * known[:, :, 1:] * known[:, :, :-1]
    return (error.abs().sum() + gradient_weight * (down.sum() + along.sum())) / pixels


def stacked(lessons: list[Lesson], device: torch.device) -> dict[str, Tensor]:
    """Lessons as tensors (B, …) by the names of their fields."""
    rows = [vars(lesson) for lesson in lessons]
    arrays = {name: np.stack([np.float32(row[name]) for row in rows]) for name in rows[0]}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def train_refiner(
    lessons: Lessons, recipe: Recipe, run: str | os.PathLike, *, progress: bool = True
) -> Refiner:
    """Train a refiner, or continue or load the run in a folder.

    SIGTERM or an interruption leaves a checkpoint; the same call continues there.

    Args:
        run: the run's folder.

    Returns:
        The averaged network, in evaluation mode.

    Raises:
        RunExists: the folder holds a run of another recipe or other code.
        RunBusy: another process is training there.
        NonFiniteLoss: the loss became NaN or infinite.
        Terminated: SIGTERM has ended the training.
    """
    folder = Path(run)
    with claimed(folder):
        return _Training(lessons, recipe, folder).run(progress)


class _Training:
    """The state of a run."""

    def __init__(self, lessons: Lessons, recipe: Recipe, folder: Path):
        self.lessons, self.recipe, self.folder = lessons, recipe, folder
        self.device = pick_device()
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            network = Refiner(recipe.widths)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        within = [
            parameter for name, parameter in self.network.named_parameters()
            if parameter.ndim == 4 and not name.startswith(("stem", "head"))
        ]
        others = [parameter for parameter in self.network.parameters() if all(parameter is not one for one in within)]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(within, recipe.learning_rate, weight_decay=recipe.weight_decay),
            "adam": torch.optim.AdamW(others, recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
        }
        self.step = 0
        self.identity = {
            "recipe": asdict(recipe) | {"widths": list(recipe.widths)},
            "sources": [source.name for source in lessons.sources], "code": digest(MEANING),
        }
        self._resume()

    def run(self, progress: bool) -> Refiner:
        recipe, saved = self.recipe, time.monotonic()
        if self.step == recipe.steps:
            return self.average
        bar = tqdm(total=recipe.steps, initial=self.step, unit="step", disable=not progress)
        with bar, Sigterm() as sigterm, ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(self._batch, self.step)
            try:
                while self.step < recipe.steps:
                    batch = waiting.result()
                    waiting = ahead.submit(self._batch, self.step + 1)
                    loss = self._update(batch)
                    self.step += 1
                    bar.update()
                    if self.step % 20 == 0:
                        bar.set_postfix(loss=f"{loss:.3f}")
                    if sigterm.asked or time.monotonic() - saved > SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
                    if sigterm.asked:
                        raise Terminated(f"step {self.step} of {recipe.steps} is saved in {self.folder}")
            finally:
                waiting.cancel()
                self._save()
        return self.average

    def _batch(self, step: int) -> list[Lesson]:
        first = step * self.recipe.batch
        return [self.lessons.draw(first + index) for index in range(self.recipe.batch)]

    def _update(self, lessons: list[Lesson]) -> float:
        recipe = self.recipe
        share = min((self.step + 1) / (0.05 * recipe.steps), 1.0, (1 - self.step / recipe.steps) / 0.6)
        for name, rate in (("muon", recipe.learning_rate), ("adam", recipe.adam_rate)):
            self.optimizers[name].param_groups[0]["lr"] = rate * share
        loss = refining_loss(self.network, stacked(lessons, self.device), recipe.gradient_weight)
        if not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"step {self.step + 1}: the loss is {float(loss):g}; lower the rate, and train in another folder"
            )
        self.network.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        keep = min(recipe.ema, (self.step + 1) / (self.step + 10))  # a young average forgets the initial weights fast
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        return float(loss.detach())

    def _save(self) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {
            f"optimizer.{kind}.{index}.{name}": torch.as_tensor(value)
            for kind, optimizer in self.optimizers.items()
            for index, state in optimizer.state_dict()["state"].items() for name, value in state.items()
        }
        save_checkpoint(self.folder, "last", tensors, {"step": self.step} | self.identity)

    def _resume(self) -> None:
        stored = load_whole(self.folder, "last")
        if stored is None:
            return
        tensors, meta = stored
        for name, own in self.identity.items():
            if meta.get(name) != own:
                raise RunExists(
                    f"{self.folder} holds a run of other {name}: give another folder, or remove it to train anew"
                )
        self.step = int(meta["step"])
        for prefix, network in (("network.", self.network), ("average.", self.average)):
            network.load_state_dict({
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            })
        for kind, optimizer in self.optimizers.items():
            state: dict[str, Any] = optimizer.state_dict()
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{kind}."):
                    index, field = name.split(".")[2:]
                    state["state"].setdefault(int(index), {})[field] = value
            optimizer.load_state_dict(state)
