"""Tensors and what explains them, written so that an interruption at any moment leaves a whole checkpoint.

A checkpoint ``best`` is two files: ``best-<first digits of the checksum>.safetensors`` and ``best.json``, which
names the former, carries its full SHA-256 and everything else there is to know. Renaming the JSON into place is
the moment the checkpoint changes; ``best.previous.json`` is the one before. No pickle is ever read.
"""

import hashlib
import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization, scale_image
from sat2dem_core.errors import CannotWrite, DamagedCheckpoint, RunExists
from sat2dem_core.models.device import pick_device
from sat2dem_core.models.methods import Method, build_method
from sat2dem_core.models.networks import UNet
from sat2dem_core.rasters.atomic import replacing


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write the checkpoint ``name`` into ``folder``, in place of an earlier one of that name.

    Raises:
        CannotWrite: see :func:`replacing`; the earlier checkpoint is whole.
    """
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    checksum = hashlib.sha256(content).hexdigest()
    weights = folder / f"{name}-{checksum[:12]}.safetensors"
    path, previous = folder / f"{name}.json", _previous(folder, name)
    known = weights.exists()
    with replacing(weights) as beside:
        beside.write_bytes(content)
    try:
        with replacing(path) as beside:
            beside.write_text(json.dumps({"weights": weights.name, "sha256": checksum} | meta, indent=1))
            if path.exists():
                with replacing(previous) as copy:
                    copy.write_bytes(path.read_bytes())
    except CannotWrite:
        if not known:  # no JSON will ever name them
            weights.unlink()
        raise
    with suppress(OSError, ValueError, KeyError):  # a JSON that cannot be read: nothing is thrown away
        named = {json.loads(file.read_text())["weights"] for file in (path, previous) if file.exists()}
        for old in folder.glob(f"{name}-*.safetensors"):
            if old.name not in named:
                old.unlink()


def _previous(folder: Path, name: str) -> Path:
    return folder / f"{name}.previous.json"


def load_whole(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint ``name``, or its predecessor, with a warning, where it is damaged; None where there is neither.

    The predecessor takes the damaged one's place.

    Raises:
        DamagedCheckpoint: both are damaged.
    """
    path, previous = folder / f"{name}.json", _previous(folder, name)
    try:
        return load_checkpoint(path) if path.exists() else None
    except DamagedCheckpoint as damage:
        if not previous.exists():
            raise
        content = load_checkpoint(previous)
        warnings.warn(f"{damage}; going on from the one before it, of step {content[1].get('step')}", stacklevel=2)
        with replacing(path) as beside:
            beside.write_bytes(previous.read_bytes())
        return content


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint from its JSON file.

    Returns:
        Its tensors by name, and what the JSON says.

    Raises:
        DamagedCheckpoint: a file is missing, cut short or not the one that was written.
    """
    advice = "copy the checkpoint again, or train it again"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        weights, checksum = path.with_name(meta["weights"]), meta["sha256"]
        content = weights.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is no whole checkpoint file ({error}): {advice}") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DamagedCheckpoint(f"{weights} is not what was written (its checksum differs from {path.name}): {advice}")
    try:
        return load(content), meta
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{weights} is no safetensors file ({error}): {advice}") from error


def same_run(meta: dict[str, Any], identity: dict[str, Any], folder: Path, accept_changed_code: bool = False) -> None:
    """Raise RunExists where a checkpoint's config, data or code are not those of ``identity``."""
    for part in ("config", "data"):
        if meta.get(part) != identity[part]:
            there, here = meta.get("config", {}), identity["config"]
            other = ", ".join(f"{name}={there.get(name)}" for name in here if there.get(name) != here[name])
            raise RunExists(
                f"{folder} holds a run with other {part}{other and f' ({other})'}: choose another folder, or remove it"
            )
    there, here = meta.get("code"), identity["code"]
    if there != here and not accept_changed_code:
        known = there if isinstance(there, dict) else {}  # a run of a version that kept one checksum for all
        changed = ", ".join(name for name in here if known.get(name) != here[name])
        raise RunExists(
            f"{folder} holds a run of other code (changed since: {changed}): --accept-changed-code goes on with it all the "
            "same; or choose another folder"
        )


@dataclass(frozen=True)
class Model:
    """A trained generator with what is needed to read its output.

    Attributes:
        generator: the network, in evaluation mode.
        normalization: turns its output into meters.
        config: the run's settings.
    """

    generator: UNet
    normalization: Normalization
    config: Config

    @torch.inference_mode()
    def predict(self, rgb: np.ndarray | Tensor, batch: int = 32) -> Tensor:
        """Normalized elevation for uint8 tiles, an array of any kind: (N, 3, T, T) to (N, T, T) float32 on the CPU."""
        device = next(self.generator.parameters()).device
        parts = (torch.as_tensor(np.asarray(rgb[at : at + batch])) for at in range(0, len(rgb), batch))
        return torch.cat([self.generator(scale_image(part.to(device))).squeeze(1).float().cpu() for part in parts])


def load_model(path: str | os.PathLike) -> Model:
    """Rebuild a model from a checkpoint's JSON file, or from a run folder's ``best``.

    Raises:
        DamagedCheckpoint: the files are cut short, or the weights belong to another architecture.
    """
    path = Path(path)
    path = path / "best.json" if path.is_dir() else path
    tensors, meta = load_checkpoint(path)
    try:
        config, normalization = Config(**meta["config"]), Normalization(**meta["normalization"])
    except (KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} does not describe a model of this version ({error}): train it again") from error
    method = build_method(config)
    restore_weights(method, tensors, path)
    return Model(method.generator.to(pick_device()).eval(), normalization, config)


def restore_weights(method: Method, tensors: dict[str, Tensor], path: Path) -> None:
    """Load a checkpoint's weights into a method's networks.

    Raises:
        DamagedCheckpoint: a tensor is missing, superfluous or of another shape; the message names it.
    """
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        raise DamagedCheckpoint(
            f"{path}: the weights are of another architecture than its config says "
            f"({' '.join(str(error).split())[:300]}): train it again"
        ) from error


@dataclass(frozen=True)
class Run:
    """A finished run on disk, and the data that it was trained on."""

    folder: Path
    data: Any = field(repr=False, compare=False)  # sat2dem_core.training.loader.Data

    @property
    def log(self) -> pd.DataFrame:
        """One row a validation: epoch, step, mean losses since the row before, validation MAE in meters, rate."""
        return pd.read_csv(self.folder / "log.csv")

    @property
    def seconds(self) -> float:
        """How long it trained, validation included, over all interruptions."""
        return json.loads((self.folder / "last.json").read_text())["seconds"]

    def model(self, checkpoint: str = "best") -> Model:
        return load_model(self.folder / f"{checkpoint}.json")
