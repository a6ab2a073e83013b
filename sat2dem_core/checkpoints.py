"""Tensors and what explains them, written so that an interruption at any moment leaves a whole checkpoint.

A checkpoint ``best`` is two files: ``best-<first digits of the checksum>.safetensors`` and ``best.json``, which
names the former, carries its full SHA-256 and everything else there is to know. Renaming the JSON into place is
the moment the checkpoint changes. No pickle is ever read.
"""

import hashlib
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import CannotWrite, DamagedCheckpoint
from sat2dem_core.files import replacing
from sat2dem_core.methods import Method, build_method
from sat2dem_core.networks import UNet, pick_device
from sat2dem_core.normalize import Normalization, scale_image


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write the checkpoint ``name`` into ``folder``, in place of an earlier one of that name.

    Raises:
        CannotWrite: see :func:`replacing`; the earlier checkpoint is whole.
    """
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    checksum = hashlib.sha256(content).hexdigest()
    weights = folder / f"{name}-{checksum[:12]}.safetensors"
    known = weights.exists()
    with replacing(weights) as beside:
        beside.write_bytes(content)
    try:
        with replacing(folder / f"{name}.json") as beside:
            beside.write_text(json.dumps({"weights": weights.name, "sha256": checksum} | meta, indent=1))
    except CannotWrite:
        if not known:  # no JSON will ever name them
            weights.unlink()
        raise
    for old in folder.glob(f"{name}-*.safetensors"):
        if old != weights:
            old.unlink()


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint from its JSON file.

    Returns:
        Its tensors by name, and what the JSON says.

    Raises:
        DamagedCheckpoint: a file is missing, cut short or not the one that was written.
    """
    advice = "copy the checkpoint again, or train it again"
    try:
        meta = json.loads(path.read_text())
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
    def predict(self, rgb: np.ndarray, batch: int = 32) -> Tensor:
        """Normalized elevation for uint8 tiles: (N, 3, T, T) to (N, T, T) float32 on the CPU."""
        device = next(self.generator.parameters()).device
        parts = torch.from_numpy(rgb).split(batch)
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


def load_paper_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Load a checkpoint of the paper authors' code into our network of the same architecture.

    Args:
        network: a :class:`UNet` or :class:`PatchGAN` at the size and with the attention of the checkpoint.
        path: what ``torch.save`` wrote: the tensors by name, alone or under ``"state_dict"``. Only tensors are read
            (``weights_only``), never other pickled objects.

    Raises:
        DamagedCheckpoint: the file is no such checkpoint, or a key is missing, superfluous or of another shape; the
            message names it, and the network is untouched.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path} does not exist: check the path") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{path} is no whole checkpoint of tensors alone ({' '.join(str(error).split())[:200]}): copy it again"
        ) from error
    found = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise DamagedCheckpoint(f"{path} holds no tensors by name: give a file that torch.save made of a state_dict")
    wanted = network.state_dict()
    faults = [f"{key} is missing" for key in wanted.keys() - found.keys()]
    faults += [f"{key} is not in this network" for key in found.keys() - wanted.keys()]
    faults += [
        f"{key} has shape {tuple(found[key].shape)}, not {tuple(wanted[key].shape)}"
        if isinstance(found[key], Tensor) else f"{key} is no tensor"
        for key in wanted.keys() & found.keys() if getattr(found[key], "shape", None) != wanted[key].shape
    ]
    if faults:
        raise DamagedCheckpoint(
            f"{path} belongs to another architecture ({'; '.join(sorted(faults)[:5])}): "
            "build the network with the checkpoint's attention, features and tile"
        )
    network.load_state_dict(found)
