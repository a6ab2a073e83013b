"""One training loop for every method: seeded, logged, checkpointed, resumable.

A run is a folder: ``config.json``, ``log.csv``, the checkpoints ``best`` (lowest validation MAE) and ``last``. Every
epoch draws its order, flips and dropout from (seed, epoch), so a run that was interrupted and resumed sees what
an uninterrupted one would have seen.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from sat2dem_core.checkpoints import Model, load_checkpoint, load_model, restore_weights, save_checkpoint
from sat2dem_core.config import Config
from sat2dem_core.errors import NonFiniteLoss, NoTiles, RunExists, WrongShape
from sat2dem_core.files import replacing
from sat2dem_core.methods import build_method
from sat2dem_core.networks import pick_device
from sat2dem_core.normalize import Normalization, scale_image
from sat2dem_core.scenes import open_scene
from sat2dem_core.store import read_parts
from sat2dem_core.tiles import Tiles, cut, divide, paper_split


@dataclass(frozen=True)
class Data:
    """Tiles to train on, to choose the checkpoint by and to test on, and their normalization."""

    train: Tiles
    validation: Tiles
    test: Tiles
    normalization: Normalization

    def fingerprint(self) -> str:
        """SHA-256 of all tiles and the normalization."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test)]
        return hashlib.sha256(",".join([*parts, repr(self.normalization)]).encode()).hexdigest()


def prepare(config: Config, scene: xr.Dataset | None = None) -> Data:
    """Open the scene, divide it, cut tiles and fit the normalization; a store's tiles are cut already.

    Args:
        scene: a Dataset of your own (see :func:`sat2dem_core.scenes.open_pair`) in place of ``config.scene``.
    """
    if scene is None and config.scene.endswith(".zarr"):
        parts = read_parts(config.scene, config.split, config.version)
        if parts[0].size != config.tile:
            raise WrongShape(f"the tiles of {config.scene} have {parts[0].size} px: set tile={parts[0].size}")
    else:
        parts = _cut_parts(config, open_scene(config.scene) if scene is None else scene)
    elevations = np.concatenate([part.dem for part in parts])
    return Data(*parts, Normalization.fit(config.normalization, elevations))


def _cut_parts(config: Config, scene: xr.Dataset) -> list[Tiles]:
    if config.split == "space":
        strides = (config.stride, config.tile // 2, config.tile)
        return [cut(region, config.tile, step) for region, step in zip(divide(scene), strides)]
    tiles = cut(scene, config.tile, config.stride)
    parts = paper_split(config.version, len(tiles))
    if not all(parts):
        raise NoTiles(f"{len(tiles)} tiles are too few for the paper's split: choose smaller tiles or stride")
    return [tiles.take(part) for part in parts]


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    folder: Path

    @property
    def log(self) -> pd.DataFrame:
        """One row a validation: epoch, step, mean losses since the row before, validation MAE in meters, rate."""
        return pd.read_csv(self.folder / "log.csv")

    def model(self, checkpoint: str = "best") -> Model:
        return load_model(self.folder / f"{checkpoint}.json")


def cache_folder() -> Path:
    """Where runs without a folder of their own are kept: ``$SAT2DEM_CACHE``, else ``~/.cache/sat2dem``."""
    return Path(os.environ.get("SAT2DEM_CACHE") or Path.home() / ".cache" / "sat2dem")


def code_version() -> str:
    """Digest of the modules that decide a run's outcome, so that it is never mistaken for one of other code."""
    folder = Path(__file__).parent
    modules = "config scenes tiles normalize attention networks losses methods training".split()
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in modules)).hexdigest()[:12]


def train(
    config: Config, *, scene: xr.Dataset | None = None, run: str | os.PathLike | None = None, progress: bool = True
) -> Run:
    """Train, resume or load a run.

    Args:
        config: see :class:`sat2dem_core.config.Config`.
        scene: your own scene in place of ``config.scene``.
        run: the run's folder. Without one, a folder of :func:`cache_folder` named after config, data and code, so
            that the same run is trained only once.
        progress: show a progress bar.

    Raises:
        RunExists: the folder holds a run of another config, data or code.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before.
    """
    data = prepare(config, scene)
    identity = {"config": asdict(config), "data": data.fingerprint(), "code": code_version()}
    if run is None:
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        run = cache_folder() / "runs" / f"{config.method}-{config.normalization}-{key}"
    trainer = _Trainer(config, data, Path(run), identity)
    trainer.resume()
    trainer.fit(progress)
    return Run(Path(run))


class _Trainer:
    """The state of a run while it trains."""

    def __init__(self, config: Config, data: Data, folder: Path, identity: dict[str, Any]):
        self.config, self.data, self.folder, self.identity = config, data, folder, identity
        self.device = pick_device()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.method = build_method(config).to(self.device)
        span = data.normalization.high - data.normalization.low
        self.method.start(meters=span / 2, gsd=data.train.gsd)
        self.plateaus = {
            name: ReduceLROnPlateau(optimizer, factor=0.5, patience=20)
            for name, optimizer in self.method.optimizers.items()
        }
        self.epoch_steps = math.ceil(len(data.train) / config.batch)
        self.steps = config.epochs * self.epoch_steps or config.steps
        self.step, self.best, self.rows = 0, math.inf, []

    def fit(self, progress: bool) -> None:
        """Train from the present step to the last."""
        train, normalization = self.data.train, self.data.normalization
        rgb = torch.from_numpy(train.rgb).to(self.device)
        dem = normalization.forward(torch.from_numpy(train.dem))[0].unsqueeze(1).to(self.device)
        losses: list[dict[str, Tensor]] = []
        with tqdm(total=self.steps, initial=self.step, unit="step", disable=not progress) as bar:
            while self.step < self.steps:
                epoch = self.step // self.epoch_steps
                losses += self._epoch(epoch, rgb, dem, bar)
                if (epoch + 1) % self.config.validate_every == 0 or self.step == self.steps:
                    row = self._validate(epoch, losses)
                    bar.set_postfix(loss=f"{row['loss']:.2f}", validation=f"{row['validation_mae']:.0f} m")
                    losses = []

    def _epoch(self, epoch: int, rgb: Tensor, dem: Tensor, bar: tqdm) -> list[dict[str, Tensor]]:
        """One pass over the training tiles; the losses stay on the device until the pass is done."""
        config, losses = self.config, []
        with torch.random.fork_rng():
            self.method.seed(config.seed + 100_003 * epoch)
            order = torch.randperm(len(rgb)).split(config.batch)[: self.steps - self.step]
            self.method.train()
            for index in order:
                self._set_rate()
                image, target = scale_image(rgb[index]), dem[index]
                if config.flips:
                    image, target = self._flip(image, target)
                losses.append(self.method.step(image, target))
                self.step += 1
                bar.update()
        for number, loss in enumerate(losses):
            if not all(value.isfinite() for value in loss.values()):
                raise NonFiniteLoss(
                    f"step {self.step - len(losses) + number + 1}: the loss is {float(loss['loss']):g}, on tiles "
                    f"{', '.join(self.data.train.ids[i] for i in order[number])}; look at these tiles, or lower the "
                    f"learning rate and train in another folder ({self._last_good()})"
                )
        return losses

    def _last_good(self) -> str:
        path = self.folder / "last.json"
        return f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"

    def _flip(self, image: Tensor, dem: Tensor) -> tuple[Tensor, Tensor]:
        for axis in (-1, -2):
            chosen = (torch.rand(len(image), 1, 1, 1) < 0.5).to(self.device)
            image, dem = (torch.where(chosen, tensor.flip(axis), tensor) for tensor in (image, dem))
        return image, dem

    def _set_rate(self) -> None:
        if self.config.schedule == "cosine":
            done = self.step / self.steps
            factor = min(10 * (self.step + 1) / self.steps, 0.5 * (1 + math.cos(math.pi * done)))
            for optimizer in self.method.optimizers.values():
                optimizer.param_groups[0]["lr"] = self.config.learning_rate * factor

    def _validate(self, epoch: int, losses: list[dict[str, Tensor]]) -> dict[str, float]:
        """Score the validation tiles, write the log and the checkpoints."""
        tiles, normalization = self.data.validation, self.data.normalization
        truth = normalization.forward(torch.from_numpy(tiles.dem))[0]
        model = Model(self.method.generator.eval(), normalization, self.config)
        scale = (normalization.high - normalization.low) / 2  # meters for each normalized unit
        mae = float((model.predict(tiles.rgb) - truth)[~truth.isnan()].abs().mean()) * scale
        if not math.isfinite(mae):
            raise NonFiniteLoss(
                f"step {self.step}: predictions of the validation tiles are no longer finite; lower the learning rate "
                f"and train in another folder ({self._last_good()})"
            )
        means = {name: float(torch.stack([loss[name] for loss in losses]).mean()) for name in losses[0]}
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.method.optimizers.items()}
        if self.config.schedule == "plateau":
            for plateau in self.plateaus.values():
                plateau.step(mae)
        row = {"epoch": epoch + 1, "step": self.step} | means | {"validation_mae": mae, "rate": rates["generator"]}
        self.rows.append(row)
        self._save(improved=mae < self.best)
        return row

    def _save(self, improved: bool) -> None:
        weights = {f"weights.{name}": tensor for name, tensor in self.method.state_dict().items()}
        self.best = min(self.best, self.rows[-1]["validation_mae"])
        meta = self.identity | {
            "normalization": asdict(self.data.normalization), "step": self.step, "best": self.best, "log": self.rows,
        }
        if improved:
            save_checkpoint(self.folder, "best", weights, meta)
        state = {
            f"optimizer.{name}.{index}.{field}": value
            for name, optimizer in self.method.optimizers.items()
            for index, values in optimizer.state_dict()["state"].items()
            for field, value in values.items()
        }
        plateaus = {name: plateau.state_dict() for name, plateau in self.plateaus.items()}
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.method.optimizers.items()}
        with replacing(self.folder / "log.csv") as beside:
            pd.DataFrame(self.rows).to_csv(beside, index=False)
        # Last of all: a run whose last checkpoint is there has the rest too, wherever it was interrupted.
        save_checkpoint(self.folder, "last", weights | state, meta | {"plateaus": plateaus, "rates": rates})

    def resume(self) -> None:
        """Take up the folder's run where its last checkpoint left it, if there is one."""
        path = self.folder / "last.json"
        if not path.exists():
            with replacing(self.folder / "config.json") as beside:
                beside.write_text(json.dumps(self.identity, indent=1))
            return
        tensors, meta = load_checkpoint(path)
        for part, value in self.identity.items():
            if meta.get(part) != value:
                there, here = meta.get("config", {}), self.identity["config"]
                other = ", ".join(f"{name}={there.get(name)}" for name in here if there.get(name) != here[name])
                raise RunExists(
                    f"{self.folder} holds a run with other {part}{other and f' ({other})'}: choose another folder, or "
                    "remove it"
                )
        restore_weights(self.method, tensors, path)
        for name, optimizer in self.method.optimizers.items():
            state = optimizer.state_dict()
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{name}."):
                    index, field = key.removeprefix(f"optimizer.{name}.").split(".")
                    state["state"].setdefault(int(index), {})[field] = value
            state["param_groups"][0]["lr"] = meta["rates"][name]
            optimizer.load_state_dict(state)
            self.plateaus[name].load_state_dict(meta["plateaus"][name])
        self.step, self.best, self.rows = meta["step"], meta["best"], meta["log"]
