"""Weights that a training starts from in place of random ones, and where they come from."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import DamagedCheckpoint, UnknownName
from sat2dem_core.models.networks import differences, read_paper_weights
from sat2dem_core.paths import data_folder
from sat2dem_core.training.checkpoints import load_checkpoint

ARCHITECTURE = ("attention", "attention_form", "features", "tile")  # settings that decide a generator's tensors


@dataclass(frozen=True)
class InitialWeights:
    """A generator's tensors, and where they come from.

    Attributes:
        source: name or path.
        sha256: of the file.
        tensors: by name.
        settings: those of ``ARCHITECTURE`` that are known.
    """

    source: str
    sha256: str
    tensors: dict[str, Tensor] = field(repr=False)
    settings: dict[str, Any]

    def origin(self) -> dict[str, str]:
        """What a run records: source and SHA-256."""
        return {"source": self.source, "sha256": self.sha256}

    def put_into(self, generator: nn.Module, config: Config) -> None:
        """Load the tensors into a generator with these settings.

        Raises:
            DamagedCheckpoint: a tensor is missing, superfluous, of another shape or not finite; the message names the
                first one and the settings to change, and the generator is unchanged.
        """
        wanted = generator.state_dict()
        if faults := differences(self.tensors, wanted):
            changes = [f"{name}={value}" for name, value in self.settings.items() if value != getattr(config, name)]
            advice = ", ".join(changes) or "attention and attention_form as they were when these weights were trained"
            raise DamagedCheckpoint(
                f"the initial weights {self.source} do not fit this run ({faults[0]}): set {advice}"
            )
        broken = [name for name, tensor in self.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise DamagedCheckpoint(
                f"the initial weights {self.source} hold numbers that are not finite ({broken[0]}): give other weights"
            )
        generator.load_state_dict(self.tensors)


def read_initial_weights(source: str | os.PathLike) -> InitialWeights:
    """Read the generator of trained weights.

    Args:
        source: the name of weights that come with the package; a run's folder, whose best checkpoint is read, or the
            JSON file of another of its checkpoints; a ``.safetensors`` file of
            :func:`sat2dem_core.prediction.weights.save_weights`, or a folder with one such file; or a generator's
            checkpoint of the paper's authors, of which only tensors are read (see
            :func:`sat2dem_core.models.networks.load_paper_weights`).

    Raises:
        UnknownName: it is none of these; the message lists the names.
        DamagedCheckpoint: the file is cut short or not of this kind.
    """
    name = os.fspath(source)
    shipped = {path.stem: path for path in sorted(data_folder("weights").glob("*.safetensors"))}
    path = shipped.get(name) or Path(name)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UnknownName(
            f"unknown initial weights {name!r}: no such file or run; choose one of {', '.join(shipped)}, or give a path"
        )
    if path.suffix == ".json":
        tensors, meta = load_checkpoint(path)
        prefix = "weights.generator."
        generator = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        return InitialWeights(name, meta["sha256"], generator, _architecture(meta.get("config")))
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error.strerror}): check the file") from error
    if path.suffix == ".safetensors":
        return InitialWeights(name, sha256, *_packed(path))
    tensors = read_paper_weights(path)
    return InitialWeights(name, sha256, tensors, _measured(tensors))


def _in_folder(folder: Path) -> Path:
    best = folder / "best.json"
    files = [best] if best.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise DamagedCheckpoint(
            f"{folder} holds no run (no best.json) and {len(files)} files of weights: give a run's folder, or one file"
        )
    return files[0]


def _packed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of a file of :func:`sat2dem_core.prediction.weights.save_weights`."""
    try:
        with safe_open(path, "pt") as file:
            settings = _architecture(json.loads((file.metadata() or {})["sat2dem"])["config"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, not a dictionary
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path} is not a complete safetensors file ({error}): copy it again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{path} does not hold weights of this project ({error!r}): give a run's folder, or other weights"
        ) from error
    return tensors, settings


def _architecture(config: Any) -> dict[str, Any]:
    return {name: config[name] for name in ARCHITECTURE if name in config} if isinstance(config, dict) else {}


def _measured(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Features and tile size of a generator, from its tensors; see :class:`sat2dem_core.models.networks.UNet`."""
    first = tensors.get("initial_down.0.weight")
    if not isinstance(first, torch.Tensor):
        return {}
    doublings = sum(bool(re.fullmatch(r"up\d+\.conv\.0\.weight", key)) for key in tensors) + 1
    return {"features": len(first), "tile": 2**doublings}
