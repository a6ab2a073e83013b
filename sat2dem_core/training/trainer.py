"""One training loop for every method: seeded, logged, checkpointed, resumable, on one device or several.

A run is a folder that explains itself: ``config.json``, ``environment.json``, ``log.csv``, the checkpoints ``best``
(lowest validation MAE) and ``last``, and the one before each. Every epoch draws its order, flips and crops from
(seed, epoch) and every step its dropout from (seed, step), so that a resumed run draws the same random numbers as one
that was never interrupted.
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
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from sat2dem_core.config import Config
from sat2dem_core.dataset.parts import Data, prepare
from sat2dem_core.digest import module_digests
from sat2dem_core.errors import InvalidConfig, NonFiniteLoss, OutOfMemory, Terminated
from sat2dem_core.models.device import float32_as, is_out_of_memory, memory_advice, pick_device, processor
from sat2dem_core.models.methods import build_method
from sat2dem_core.paths import cache_folder
from sat2dem_core.rasters.atomic import claimed, replacing
from sat2dem_core.training.checkpoints import Model, Run, load_whole, restore_weights, same_run, save_checkpoint
from sat2dem_core.training.distributed import Agreement, Group, join
from sat2dem_core.training.initial import InitialWeights, read_initial_weights
from sat2dem_core.training.loader import Batch, Batches
from sat2dem_core.training.sigterm import Sigterm

if TYPE_CHECKING:
    import xarray as xr

SAVE_SECONDS = 600  # between two saves, where validations are further apart


def train(
    config: Config, *, scene: "xr.Dataset | None" = None, data: Data | None = None,
    run: str | os.PathLike | None = None, progress: bool = True, tensorboard: bool = False,
    accept_changed_code: bool = False, initial_weights: str | os.PathLike | None = None,
) -> Run:
    """Train, resume or load a run.

    SIGTERM, sent while the model trains, has the run saved after the present step, in one process or in several, and
    ends it; the same call continues there. A second SIGTERM ends the process at once.

    Several processes share it where a launcher started them: ``torchrun`` in a shell, or torch's elastic launcher in a
    notebook (:mod:`sat2dem_core.training.distributed` shows how). Each computes its part of every batch, and all take
    the same step. They must see one file system.

    Args:
        config: see :class:`sat2dem_core.config.Config`.
        scene: your own scene in place of ``config.scene``.
        data: your own tiles in place of a scene.
        run: the run's folder. Without one, a folder of :func:`cache_folder` named after config, data, initial weights
            and code, so that the same run is trained only once.
        progress: show a progress bar.
        tensorboard: write the log for TensorBoard too.
        accept_changed_code: go on with a run that other code began; by default that is refused.
        initial_weights: what the generator starts from in place of random weights: the name of weights that come with
            the package, a run's folder, a file of weights, or a checkpoint of the paper's authors (see
            :func:`sat2dem_core.training.initial.read_initial_weights`). Discriminator and reviser start from random
            weights. Scores are too good if these weights were trained on tiles that the run holds out.

    Raises:
        RunExists: the folder holds a run of another config, data or code, or from other initial weights.
        UnknownName, DamagedCheckpoint: the initial weights cannot be read, or do not fit the config.
        RunBusy: another process is training there.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before.
        OutOfMemory: the batch does not fit; the message says what does.
        LostProcess: one of several processes is gone; the same command goes on from the last checkpoint.
        Terminated: SIGTERM has ended the training; it is a ``SystemExit`` with status 143.
    """
    group = join(pick_device())
    with group.first_alone():  # it may have to download something
        data = prepare(config, scene) if data is None else data
    identity = {"config": asdict(config), "data": data.fingerprint(), "code": module_digests()}
    initial = None if initial_weights is None else read_initial_weights(initial_weights)
    if run is None:  # the same weights may have several names
        weights = {"initial_weights": initial.sha256} if initial else {}
        key = hashlib.sha256(json.dumps(identity | weights).encode()).hexdigest()[:16]
        run = cache_folder() / "runs" / f"{config.method}-{config.normalization}-{key}"
    folder = Path(run)
    if initial:
        identity["initial_weights"] = initial.origin()
    trainer = _Trainer(config, data, folder, identity, group, initial)
    with group.together(folder), nullcontext() if group.rank else claimed(folder), float32_as(config.tf32):
        trainer.resume(accept_changed_code)
        trainer.fit(progress and not group.rank, tensorboard and not group.rank)
    return Run(folder, data)


class _Trainer:
    """The state of a run while it trains."""

    def __init__(
        self, config: Config, data: Data, folder: Path, identity: dict[str, Any], group: Group,
        initial: InitialWeights | None = None,
    ):
        self.config, self.data, self.folder, self.identity, self.group = config, data, folder, identity, group
        device = group.device
        self.gpus = [device] if device.type == "cuda" else []  # random state to restore, besides the host's
        with torch.random.fork_rng(self.gpus):
            torch.manual_seed(config.seed)
            self.method = build_method(config)
        if initial:
            initial.put_into(self.method.generator, config)
        self.method.to(device)
        self.span = data.normalization.high - data.normalization.low  # meters from -1 to 1
        self.method.start(meters=self.span / 2, gsd=data.train.gsd)
        # The generator that is validated and saved: with ``ema`` the average of those of all steps.
        self.generator = copy.deepcopy(self.method.generator) if config.ema else self.method.generator
        self.plateaus = {
            name: ReduceLROnPlateau(optimizer, factor=0.5, patience=20)
            for name, optimizer in self.method.optimizers.items()
        }
        self.epoch_steps = math.ceil(len(data.train) / config.batch)
        self.steps = config.epochs * self.epoch_steps or config.steps
        self.step, self.best = 0, math.inf
        self.rows: list[dict[str, float]] = []  # of the log
        self.losses: list[dict[str, float]] = []  # of the steps since the last row of the log
        self.started = self.saved = time.monotonic()  # a resumed run started as much earlier as it had trained
        self.environment = {
            "python": platform.python_version(), "torch": torch.__version__, "device": processor(),
            "threads": torch.get_num_threads(), "processes": group.processes, "16 bits": str(self.method.reduced),
        }

    def fit(self, progress: bool, tensorboard: bool) -> None:
        """Train from the present step to the last."""
        if self.step < self.steps:
            if not self.group.rank:
                self._write_settings()
            batches = Batches(self.data, self.config, self.group.device, self.group.rank, self.group.processes)
            board = _board(self.folder, self.step) if tensorboard else nullcontext()
            launched = self.group.processes > 1 or "TORCHELASTIC_RUN_ID" in os.environ
            with torch.random.fork_rng(self.gpus), self._bar(progress) as bar, board, Sigterm(launched) as sigterm:
                self._fit(batches, bar, board if tensorboard else None, sigterm)
        self.group.wait()  # nobody reads what the first has not written

    def _fit(self, batches: Batches, bar: tqdm, board: Any, sigterm: Sigterm) -> None:
        agreement = Agreement(self.group)
        while True:
            epochs, rest = divmod(self.step, self.epoch_steps)
            ended = self.step == self.steps or (not rest and epochs % self.config.validate_every == 0)
            if ended and self.losses:  # also where a run was saved after the last step of an epoch
                row = self._validate((self.step - 1) // self.epoch_steps)
                bar.set_postfix(loss=f"{row['loss']:.2f}", validation=f"{row['validation_mae']:.0f} m")
                if board:
                    for name, value in row.items():
                        board.add_scalar(name, value, self.step)
            if self.step == self.steps:
                break
            self._epoch(epochs, batches, bar, agreement, sigterm)
        if self.group.add_up(torch.tensor(int(sigterm.asked))):
            self._end()

    def _end(self) -> None:
        """End because of SIGTERM, together: a launcher kills all others as soon as one has ended.

        Raises:
            Terminated: always.
        """
        self.group.wait()
        raise Terminated(f"step {self.step} of {self.steps} is saved in {self.folder}")

    def _write_settings(self) -> None:
        settings = self.identity | {"source": self.data.source}
        for name, content in {"config": settings, "environment": self.environment}.items():
            with replacing(self.folder / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _bar(self, shown: bool) -> tqdm:
        tiles = len(self.data.train) / self.epoch_steps  # in a step, on average: an epoch's last batch is shorter
        total, initial = round(self.steps * tiles), round(self.step * tiles)
        return tqdm(total=total, initial=initial, unit="tile", disable=not shown)

    def _epoch(self, number: int, batches: Batches, bar: tqdm, agreement: Agreement, sigterm: Sigterm) -> None:
        """One pass over the training tiles, or the rest of it; losses stay on the device until it is done."""
        losses: list[dict[str, Tensor]] = []
        tiles: list[Tensor] = []  # of each step, to name those of a loss that is not finite
        self.method.train()
        for batch in batches.epoch(number, skip=self.step - number * self.epoch_steps):
            if self.config.schedule == "cosine":
                for optimizer in self.method.optimizers.values():
                    optimizer.param_groups[0]["lr"] = self.config.cosine(self.step, self.steps)
            # Each process draws other masks for its tiles: a stream of its own, the first's being that of a single one.
            stream = self.config.seed + 100_003 * self.step + 1_000_000_007 * self.group.rank
            self.method.seed(2 * stream % 2**64)
            losses.append(self._step(batch))
            tiles.append(batch.index)
            self.step += 1
            if self.config.ema:
                self._average()
            bar.update(batch.total)
            if self.step == self.steps:
                break
            save, end = agreement.reached(time.monotonic() - self.saved > SAVE_SECONDS, sigterm.asked)
            if save or end:
                self._collect(losses, tiles, batches)
                losses, tiles = [], []
                if not self.group.rank:
                    self._save_last()
            if end:
                self._end()
        self._collect(losses, tiles, batches)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        step = self.method.step
        try:
            return step(batch.image, batch.dem, batch.weight)
        except RuntimeError as error:
            if self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).splitlines()[0]
                raise InvalidConfig(f"torch.compile fails here ({reason}): set compile=false") from error
            if not is_out_of_memory(error):
                raise
        # After the clause, because the error's frames hold tensors. The trials spoil the weights: the run ends here.
        parts, image, dem = self.config.accumulate, batch.image, batch.dem
        attempt = None if self.group.processes > 1 else lambda tiles: step(image[: tiles * parts], dem[: tiles * parts])
        raise OutOfMemory(memory_advice(math.ceil(len(image) / parts), self.config, attempt))

    def _collect(self, losses: list[dict[str, Tensor]], tiles: list[Tensor], batches: Batches) -> None:
        """Copy the losses of some steps to the host, all at once.

        Raises:
            NonFiniteLoss: one of them is NaN or infinite; the message names the step and its tiles.
        """
        if not losses:
            return
        table = torch.stack([torch.stack(list(loss.values())) for loss in losses])  # (steps, losses)
        table = self.group.add_up(table).cpu()
        broken = (~table.isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            index = broken[0]
            raise NonFiniteLoss(
                f"step {self.step - len(losses) + index + 1}: the loss is {float(table[index, 0]):g}, on tiles "
                f"{', '.join(batches.names(tiles[index]))}; look at these tiles, or lower the learning rate and train "
                f"in another folder ({self._last_good()})"
            )
        self.losses += [dict(zip(losses[0], row)) for row in table.tolist()]

    def _last_good(self) -> str:
        path = self.folder / "last.json"
        return f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"

    def _average(self) -> None:
        """Move the averaged generator toward the present one."""
        keep = min(self.config.ema, self.step / (9 + self.step))  # a young average forgets the initial weights fast
        with torch.no_grad():
            torch._foreach_lerp_(list(self.generator.parameters()), list(self.method.generator.parameters()), 1 - keep)
            for mean, buffer in zip(self.generator.buffers(), self.method.generator.buffers()):
                mean.copy_(buffer)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Score the validation tiles, lower the rate where they stand still, and write the log and the checkpoints."""
        mae, rate = self._validation_mae(), self._rates()["generator"]
        if not math.isfinite(mae):
            raise NonFiniteLoss(
                f"step {self.step}: predictions of the validation tiles are no longer finite; lower the learning rate "
                f"and train in another folder ({self._last_good()})"
            )
        if self.config.schedule == "plateau":
            for plateau in self.plateaus.values():
                plateau.step(mae)
        means = {name: float(np.mean([loss[name] for loss in self.losses])) for name in self.losses[0]}
        row = {"epoch": epoch + 1, "step": self.step} | means | {"validation_mae": mae, "rate": rate}
        improved, self.best = mae < self.best, min(mae, self.best)
        self.rows, self.losses = [*self.rows, row], []
        if not self.group.rank:
            if improved:
                save_checkpoint(self.folder, "best", self._weights(), self._meta())
            with replacing(self.folder / "log.csv") as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)
            self._save_last()  # at the end: where it is, the rest is too, wherever the run was interrupted
        return row

    def _validation_mae(self) -> float:
        """Mean absolute error over all valid pixels of the validation tiles, meters."""
        tiles, normalization = self.data.validation, self.data.normalization
        model = Model(self.generator.eval(), normalization, self.config)
        sums = torch.zeros(2, dtype=torch.float64)  # of absolute errors, of pixels
        own = np.array_split(np.arange(len(tiles)), self.group.processes)[self.group.rank]
        for part in (own[start : start + 32] for start in range(0, len(own), 32)):
            span = slice(part[0], part[-1] + 1)
            truth = normalization.forward(torch.as_tensor(np.asarray(tiles.dem[span])))[0]
            with self.method.autocast():
                error = (model.predict(tiles.rgb[span]) - truth)[~truth.isnan()].abs()
            sums += torch.tensor([error.sum(dtype=torch.float64), error.numel()], dtype=torch.float64)
        total, count = self.group.add_up(sums).tolist()
        return total / count * self.span / 2

    def _rates(self) -> dict[str, float]:
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.method.optimizers.items()}

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"weights.{name}": tensor for name, tensor in self.method.state_dict().items()}
        return weights | {f"weights.generator.{name}": tensor for name, tensor in self.generator.state_dict().items()}

    def _meta(self) -> dict[str, Any]:
        data = {"source": self.data.source, "normalization": asdict(self.data.normalization)}
        return self.identity | data | {"step": self.step, "best": self.best, "log": self.rows}

    def _save_last(self) -> None:
        """Write everything that :meth:`resume` reads."""
        tensors = self._weights() | self.method.optimizer_state()
        if self.config.ema:
            tensors |= {f"raw.{name}": tensor for name, tensor in self.method.generator.state_dict().items()}
        meta = self._meta() | {
            "rates": self._rates(), "plateaus": {name: plateau.state_dict() for name, plateau in self.plateaus.items()},
            "seconds": time.monotonic() - self.started, "losses": self.losses,
            "scaler": self.method.scaler.state_dict(), "environment": self.environment,
        }
        save_checkpoint(self.folder, "last", tensors, meta)
        self.saved = time.monotonic()

    def resume(self, accept_changed_code: bool) -> None:
        """Go on with the run in the folder from its last checkpoint, if there is one.

        Raises:
            RunExists: the folder holds a run of another config, data or code, or from other initial weights.
            DamagedCheckpoint: neither its last checkpoint nor the one before can be read.
        """
        with self.group.first_alone():  # it may have to mend something
            checkpoint = load_whole(self.folder, "last")
        if checkpoint is None:
            return
        tensors, meta = checkpoint
        same_run(meta, self.identity, self.folder, accept_changed_code)
        if meta["step"] < self.steps:
            self._warn_of_changes(meta["environment"])
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

    def _warn_of_changes(self, environment: dict[str, Any]) -> None:
        changed = [
            f"{name} {value} is now {self.environment.get(name)}"
            for name, value in environment.items() if value != self.environment.get(name)
        ]
        if changed:
            said = f"{', '.join(changed)}: the run goes on, but its results may differ slightly"
            warnings.warn(said, stacklevel=4)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidConfig("TensorBoard is not installed: pip install tensorboard, or train without it") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
