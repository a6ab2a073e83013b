"""One training loop for every method: seeded, logged, checkpointed, resumable, on one device or several.

A run is a folder that explains itself: ``config.json``, ``environment.json``, ``log.csv``, the checkpoints ``best`` (lowest validation MAE) and ``last``, and of each the one before. Every epoch
draws its order, flips and crops from (seed, epoch) and every step its dropout from (seed, step), so a run that was
interrupted and resumed sees what an uninterrupted one would have seen.
"""

import copy
import hashlib
import json
import math
import os
import platform
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from sat2dem_core.config import Config
from sat2dem_core.dataset.parts import Data, prepare
from sat2dem_core.digest import module_digests
from sat2dem_core.errors import InvalidConfig, NonFiniteLoss, OutOfMemory
from sat2dem_core.models.device import is_out_of_memory, memory_advice, pick_device, processor
from sat2dem_core.models.methods import build_method
from sat2dem_core.paths import cache_folder
from sat2dem_core.rasters.atomic import claimed, replacing
from sat2dem_core.training.checkpoints import Model, Run, load_whole, restore_weights, same_run, save_checkpoint
from sat2dem_core.training.distributed import first_alone, join, together
from sat2dem_core.training.loader import Batch, Batches

if TYPE_CHECKING:
    import xarray as xr

SAVE_SECONDS = 600  # between two saves, where validations are further apart


def train(
    config: Config, *, scene: "xr.Dataset | None" = None, data: Data | None = None, run: str | os.PathLike | None = None,
    progress: bool = True, tensorboard: bool = False, accept_changed_code: bool = False,
) -> Run:
    """Train, resume or load a run.

    Several processes share it where a launcher started them (``torchrun``, ``accelerate launch``,
    ``accelerate.notebook_launcher``): each takes its part of every batch, and the update is that of one process. They
    must see one file system.

    Args:
        config: see :class:`sat2dem_core.config.Config`.
        scene: your own scene in place of ``config.scene``.
        data: your own tiles in place of a scene.
        run: the run's folder. Without one, a folder of :func:`cache_folder` named after config, data and code, so
            that the same run is trained only once.
        progress: show a progress bar.
        tensorboard: write the log for TensorBoard too.
        accept_changed_code: go on with a run that other code began, where by default that is refused.

    Raises:
        RunExists: the folder holds a run of another config, data or code.
        RunBusy: another process is training there.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before.
        OutOfMemory: the batch does not fit; the message says what does.
        LostProcess: one of several processes is gone; the same command goes on from the last checkpoint.
    """
    device, rank, processes = join(pick_device())
    with first_alone(rank, processes):  # it may have to download something
        data = prepare(config, scene) if data is None else data
    identity = {"config": asdict(config), "data": data.fingerprint(), "code": module_digests()}
    if run is None:
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        run = cache_folder() / "runs" / f"{config.method}-{config.normalization}-{key}"
    trainer = _Trainer(config, data, Path(run), identity, device, rank, processes)
    with together(processes, run), nullcontext() if rank else claimed(trainer.folder):
        trainer.resume(accept_changed_code)
        trainer.fit(progress and not rank, tensorboard and not rank)
    return Run(Path(run), data)


class _Trainer:
    """The state of a run while it trains."""

    def __init__(
        self, config: Config, data: Data, folder: Path, identity: dict[str, Any], device: torch.device, rank: int,
        processes: int,
    ):
        self.config, self.data, self.folder, self.identity = config, data, folder, identity
        self.device, self.rank, self.processes = device, rank, processes
        self.drawing = [device] if device.type == "cuda" else []  # whose random state is put back, beside the host's
        with torch.random.fork_rng(self.drawing):
            torch.manual_seed(config.seed)
            self.method = build_method(config).to(device)
        span = data.normalization.high - data.normalization.low
        self.method.start(meters=span / 2, gsd=data.train.gsd)
        self.generator = copy.deepcopy(self.method.generator) if config.ema else self.method.generator  # to validate
        self.plateaus = {
            name: ReduceLROnPlateau(optimizer, factor=0.5, patience=20)
            for name, optimizer in self.method.optimizers.items()
        }
        self.epoch_steps = math.ceil(len(data.train) / config.batch)
        self.steps = config.epochs * self.epoch_steps or config.steps
        self.step, self.best, self.saved = 0, math.inf, time.monotonic()
        self.rows: list[dict[str, float]] = []  # of the log
        self.started = self.saved  # moves back by what was spent before an interruption
        self.losses: list[dict[str, float]] = []  # of the steps since the last row of the log
        self.environment = {
            "python": platform.python_version(), "torch": torch.__version__, "device": processor(),
            "threads": torch.get_num_threads(), "processes": processes, "16 bits": str(self.method.reduced),
        }

    def fit(self, progress: bool, tensorboard: bool) -> None:
        """Train from the present step to the last."""
        if self.step < self.steps:
            for name, content in {"config": self.identity, "environment": self.environment}.items():
                if not self.rank:
                    with replacing(self.folder / f"{name}.json") as beside:
                        beside.write_text(json.dumps(content, indent=1))
            batches = Batches(self.data, self.config, self.device, self.rank, self.processes)
            board = _board(self.folder, self.step) if tensorboard else None
            mean = len(self.data.train) / self.epoch_steps  # tiles in a step: an epoch's last batch is shorter
            total, initial = round(self.steps * mean), round(self.step * mean)
            with (
                torch.random.fork_rng(self.drawing),
                tqdm(total=total, initial=initial, unit="tile", disable=not progress) as bar,
            ):
                while self.step < self.steps:
                    epoch = self.step // self.epoch_steps
                    self._epoch(epoch, batches, bar)
                    if (epoch + 1) % self.config.validate_every == 0 or self.step == self.steps:
                        row = self._validate(epoch)
                        bar.set_postfix(loss=f"{row['loss']:.2f}", validation=f"{row['validation_mae']:.0f} m")
                        if board:
                            for name in row:
                                board.add_scalar(name, row[name], self.step)
        if self.processes > 1:
            dist.barrier()  # nobody reads what the first has not written

    def _epoch(self, number: int, batches: Batches, bar: tqdm) -> None:
        """One pass over the training tiles, or what is left of it; losses stay on the device until it is done."""
        losses, seen = [], []
        self.method.train()
        for batch in batches.epoch(number, skip=self.step - number * self.epoch_steps):
            if self.config.schedule == "cosine":
                for optimizer in self.method.optimizers.values():
                    optimizer.param_groups[0]["lr"] = self.config.cosine(self.step, self.steps)
            self.method.seed(2 * (self.config.seed + 100_003 * self.step) % 2**64)
            losses.append(self._step(batch))
            seen.append(batch.index)
            self.step += 1
            if self.config.ema:
                self._average()
            bar.update(batch.total)
            if self.step == self.steps:
                break
            if self.processes == 1 and time.monotonic() - self.saved > SAVE_SECONDS:  # clocks of several would differ
                self._collect(losses, seen, batches)
                self._save_last()
                losses, seen = [], []
        self._collect(losses, seen, batches)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        step = self.method.step
        try:
            return step(batch.image, batch.dem, batch.first, batch.total, batch.weight)
        except RuntimeError as error:
            if self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise InvalidConfig(f"torch.compile fails here ({str(error).splitlines()[0]}): set compile=false") from error
            if not is_out_of_memory(error):
                raise
        # Outside of the clause, for the error's frames hold tensors. The trials spoil the weights: the run ends.
        parts, image, dem = self.config.accumulate, batch.image, batch.dem
        attempt = None if self.processes > 1 else lambda tiles: step(image[: tiles * parts], dem[: tiles * parts])
        raise OutOfMemory(memory_advice(math.ceil(len(image) / parts), self.config, attempt))

    def _collect(self, losses: list[dict[str, Tensor]], seen: list[Tensor], batches: Batches) -> None:
        """Bring the losses to the host, all at once, and look whether they are finite."""
        if not losses:
            return
        table = torch.stack([torch.stack(list(loss.values())) for loss in losses])  # (steps, losses)
        if self.processes > 1:
            dist.all_reduce(table)
        table = table.cpu()
        for number in (~table.isfinite().all(1)).nonzero().flatten().tolist()[:1]:
            raise NonFiniteLoss(
                f"step {self.step - len(losses) + number + 1}: the loss is {float(table[number, 0]):g}, on tiles "
                f"{', '.join(batches.names(seen[number]))}; look at these tiles, or lower the learning rate and train "
                f"in another folder ({self._last_good()})"
            )
        self.losses += [dict(zip(losses[0], row)) for row in table.tolist()]

    def _last_good(self) -> str:
        path = self.folder / "last.json"
        return f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"

    def _average(self) -> None:
        keep = min(self.config.ema, self.step / (9 + self.step))  # a young average forgets the initial weights fast
        with torch.no_grad():
            torch._foreach_lerp_(list(self.generator.parameters()), list(self.method.generator.parameters()), 1 - keep)
            for mean, buffer in zip(self.generator.buffers(), self.method.generator.buffers()):
                mean.copy_(buffer)

    def _rates(self) -> dict[str, float]:
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.method.optimizers.items()}

    def _validate(self, epoch: int) -> dict[str, float]:
        """Score the validation tiles, write the log and the checkpoints."""
        tiles, normalization = self.data.validation, self.data.normalization
        model = Model(self.generator.eval(), normalization, self.config)
        sums = torch.zeros(2, dtype=torch.float64)
        own = np.array_split(np.arange(len(tiles)), self.processes)[self.rank]
        for part in (own[at : at + 32] for at in range(0, len(own), 32)):
            span = slice(part[0], part[-1] + 1)
            truth = normalization.forward(torch.as_tensor(np.asarray(tiles.dem[span])))[0]
            with self.method.autocast():
                error = (model.predict(tiles.rgb[span]) - truth)[~truth.isnan()].abs()
            sums += torch.tensor([error.sum(dtype=torch.float64), error.numel()], dtype=torch.float64)
        if self.processes > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        total, count = sums.tolist()
        mae = total / count * (normalization.high - normalization.low) / 2
        if not math.isfinite(mae):
            raise NonFiniteLoss(
                f"step {self.step}: predictions of the validation tiles are no longer finite; lower the learning rate "
                f"and train in another folder ({self._last_good()})"
            )
        means = {name: float(np.mean([loss[name] for loss in self.losses])) for name in self.losses[0]}
        rate = self._rates()["generator"]
        for plateau in self.plateaus.values() if self.config.schedule == "plateau" else ():
            plateau.step(mae)
        row = {"epoch": epoch + 1, "step": self.step} | means | {"validation_mae": mae, "rate": rate}
        improved, self.best = mae < self.best, min(mae, self.best)
        self.rows, self.losses = [*self.rows, row], []
        if not self.rank:
            if improved:
                save_checkpoint(self.folder, "best", self._weights(), self._meta())
            with replacing(self.folder / "log.csv") as beside:
                pd.DataFrame(self.rows).to_csv(beside, index=False)
            self._save_last()  # last of all: where it is, the rest is too, wherever the run was interrupted
        return row

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"weights.{name}": tensor for name, tensor in self.method.state_dict().items()}
        return weights | {f"weights.generator.{name}": tensor for name, tensor in self.generator.state_dict().items()}

    def _meta(self) -> dict[str, Any]:
        normalization = asdict(self.data.normalization)
        return self.identity | {"normalization": normalization, "step": self.step, "best": self.best, "log": self.rows}

    def _save_last(self) -> None:
        state = self.method.optimizer_state()
        if self.config.ema:
            state |= {f"raw.{name}": tensor for name, tensor in self.method.generator.state_dict().items()}
        meta = self._meta() | {
            "rates": self._rates(), "plateaus": {name: plateau.state_dict() for name, plateau in self.plateaus.items()},
            "seconds": time.monotonic() - self.started, "losses": self.losses, "scaler": self.method.scaler.state_dict(), "environment": self.environment,
        }
        save_checkpoint(self.folder, "last", self._weights() | state, meta)
        self.saved = time.monotonic()

    def resume(self, accept_changed_code: bool) -> None:
        """Take up the folder's run where its last checkpoint left it, if there is one."""
        with first_alone(self.rank, self.processes):  # it may have to mend something
            found = load_whole(self.folder, "last")
        if found is None:
            return
        tensors, meta = found
        same_run(meta, self.identity, self.folder, accept_changed_code)
        changed = [f"{name} {was} is now {self.environment.get(name)}"
                   for name, was in meta["environment"].items() if was != self.environment.get(name)]
        if changed and meta["step"] < self.steps:
            warnings.warn(f"{', '.join(changed)}: the run goes on, but may end with other bits", stacklevel=3)
        restore_weights(self.method, tensors, self.folder / "last.json")
        if self.config.ema:
            self.generator.load_state_dict(self.method.generator.state_dict())
            raw = {key.removeprefix("raw."): value for key, value in tensors.items() if key.startswith("raw.")}
            self.method.generator.load_state_dict(raw)
        self.method.restore_optimizers(tensors, meta["rates"])
        for name, plateau in self.plateaus.items():
            plateau.load_state_dict(meta["plateaus"][name])
        self.method.scaler.load_state_dict(meta["scaler"])
        self.started -= meta["seconds"]
        self.step, self.best, self.rows, self.losses = meta["step"], meta["best"], meta["log"], meta["losses"]


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidConfig("TensorBoard is not installed: pip install tensorboard, or train without it") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
