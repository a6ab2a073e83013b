"""Checkpoints: tensors and their description, written so that an interruption at any moment leaves a whole one.

A checkpoint ``best`` is two files: ``best-<first digits of the checksum>.safetensors`` with the tensors, and
``best.json``, which names that file and holds its full SHA-256 and the description. The checkpoint changes when the
JSON is renamed into place; ``best.previous.json`` is the one before. No pickle is ever read.
"""

import hashlib
import json
import math
import os
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization, scale_image
from sat2dem_core.dataset.parts import GIVEN, Data, every_tile, prepare, source_of
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.errors import CannotWrite, DamagedCheckpoint, RunExists, Sat2DEMError
from sat2dem_core.models.device import float32_as, pick_device
from sat2dem_core.models.methods import Method, build_method
from sat2dem_core.models.networks import UNet
from sat2dem_core.rasters.atomic import replacing

if TYPE_CHECKING:
    import xarray as xr


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
    with replacing(weights) as temporary:
        temporary.write_bytes(content)
    try:
        with replacing(path) as temporary:
            description = {"weights": weights.name, "sha256": checksum} | meta
            temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
            if path.exists():
                with replacing(previous) as copy:
                    copy.write_bytes(path.read_bytes())
    except CannotWrite:
        if not known:  # no JSON will ever name them
            weights.unlink()
        raise
    with suppress(OSError, ValueError, KeyError):  # where a JSON cannot be read, all tensors are kept
        files = [file for file in (path, previous) if file.exists()]
        named = {json.loads(file.read_text(encoding="utf-8"))["weights"] for file in files}
        for old in folder.glob(f"{name}-*.safetensors"):
            if old.name not in named:
                old.unlink()


def _previous(folder: Path, name: str) -> Path:
    return folder / f"{name}.previous.json"


def load_whole(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the checkpoint ``name``; where it is damaged, the one before it, which takes its place, with a warning.

    Returns:
        Its tensors by name and its description; None where there is no such checkpoint.

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
        with replacing(path) as temporary:
            temporary.write_bytes(previous.read_bytes())
        return content


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint from its JSON file.

    Returns:
        Its tensors by name, and the content of the JSON.

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
        raise DamagedCheckpoint(f"{weights} differs from what was written (see the checksum in {path.name}): {advice}")
    try:
        return load(content), meta
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{weights} is no safetensors file ({error}): {advice}") from error


def same_run(meta: dict[str, Any], identity: dict[str, Any], folder: Path, accept_changed_code: bool = False) -> None:
    """Check that a checkpoint belongs to a run.

    Args:
        meta: the checkpoint's description.
        identity: the run's ``config``, ``data`` (a fingerprint), ``code`` (a digest of each module) and, if it did not
            start from random weights, ``initial_weights``.
        folder: the run's folder, for the message.
        accept_changed_code: let the code differ.

    Raises:
        RunExists: config, data, initial weights or code differ; the message names the settings or modules that do.
    """
    meta = meta | {"config": asdict(Config()) | meta.get("config", {})}  # a setting that is newer than the run
    for part in ("config", "data"):
        if meta.get(part) != identity[part]:
            stored, wanted = meta["config"], identity["config"]
            other = ", ".join(f"{name}={stored.get(name)}" for name in wanted if stored.get(name) != wanted[name])
            raise RunExists(
                f"{folder} holds a run with other {part}{other and f' ({other})'}: choose another folder, or remove it"
            )
    started, starting = (part.get("initial_weights") or {"source": "random weights"} for part in (meta, identity))
    if started.get("sha256") != starting.get("sha256"):
        raise RunExists(
            f"{folder} holds a run that started from {started['source']}, not from {starting['source']}"
            f"{', which has other content' if started['source'] == starting['source'] else ''}: start from the same "
            "weights, choose another folder, or remove it"
        )
    stored, wanted = meta.get("code"), identity["code"]
    if stored == wanted or accept_changed_code:
        return
    if isinstance(stored, dict):
        changed = ", ".join(name for name in wanted | stored if stored.get(name) != wanted.get(name))
        reason = f"a run of other code (changed since: {changed})"
    else:
        reason = "a run of an earlier version, which did not record its modules, so that nobody can say what changed"
    raise RunExists(
        f"{folder} holds {reason}: choose another folder, or go on with this one all the same by --accept-changed-code "
        "(accept_changed_code=True in Python)"
    )


def check_data(meta: dict[str, Any], data: Data, folder: Path, advice: str) -> None:
    """Check that a run was trained on these data.

    Args:
        meta: the description of one of the run's checkpoints.
        folder: the run's folder, for the message.
        advice: what to do otherwise, for the message.

    Raises:
        RunExists: it was trained on other data; the message names them, if the run recorded them.
    """
    if data.fingerprint() == meta.get("data"):
        return
    source = meta.get("source", f"other data than {data.source}")  # runs of earlier versions have none
    change = ", whose pixels were different then" if source == data.source else ""
    raise RunExists(f"{folder} was trained on {source}{change}: {advice}")


def training_data(meta: dict[str, Any], folder: Path, advice: str) -> Data:
    """Prepare the data that a run's config names, and check that the run was trained on them; see :func:`check_data`.

    Raises:
        RunExists: it was trained on other data.
        Sat2DEMError: the data cannot be prepared; see :func:`sat2dem_core.dataset.parts.prepare`.
    """
    try:
        data = prepare(Config(**meta["config"]))
    except Sat2DEMError as error:
        if meta.get("source", "").endswith(GIVEN):  # what the config names was never used
            raise RunExists(f"{folder} was trained on {meta['source']}: {advice}") from error
        raise
    check_data(meta, data, folder, advice)
    return data


@dataclass(frozen=True)
class Model:
    """A trained generator, and how to read its output.

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
        parts = (torch.as_tensor(np.asarray(rgb[start : start + batch])) for start in range(0, len(rgb), batch))
        with float32_as(self.config.tf32):
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
        complaint = f"{path} does not describe a model of this version ({error}): train it again"
        raise DamagedCheckpoint(complaint) from error
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
    """A finished run on disk, and the data it was trained on."""

    folder: Path
    data: Data = field(repr=False, compare=False)

    @property
    def log(self) -> pd.DataFrame:
        """One row for each validation: epoch, step, mean losses since the last, validation MAE in meters, rate."""
        return pd.read_csv(self.folder / "log.csv")

    @property
    def seconds(self) -> float:
        """Training time with validation, over all interruptions."""
        return json.loads((self.folder / "last.json").read_text(encoding="utf-8"))["seconds"]

    def model(self, checkpoint: str = "best") -> Model:
        """The model of a checkpoint, ``"best"`` or ``"last"``."""
        return load_model(self.folder / f"{checkpoint}.json")


class Subject(NamedTuple):
    """What a run is scored on.

    Attributes:
        tiles: to score.
        train: tiles to fit the baselines to.
        text: a sentence that says which tiles these are.
    """

    tiles: Tiles
    train: Tiles
    text: str


def tiles_to_score(folder: str | os.PathLike, scene: str | None = None, pair: "xr.Dataset | None" = None) -> Subject:
    """The tiles to score a run on: those held out from its own data, or every tile of another scene or store.

    Where a scene or store holds what the run was trained on, or has its name, its held-out tiles alone are scored.
    Baselines are fitted to the run's training tiles, where its config still names them, and else to the scored tiles.

    Args:
        folder: of the run.
        scene: another scene or store, as :class:`sat2dem_core.config.Config` names it.
        pair: another scene as a Dataset; see :func:`sat2dem_core.dataset.scenes.open_pair`.

    Raises:
        DamagedCheckpoint: the folder holds no run.
        RunExists: no other scene is given, and the run was trained on other data than its config names.
        Sat2DEMError: the tiles cannot be had; see :func:`sat2dem_core.dataset.parts.every_tile`.
    """
    folder = Path(folder)
    meta = load_checkpoint(folder / "best.json")[1]
    advice = "say what to score it on with --scene, --store, or --image and --truth"
    if scene is None and pair is None:
        return _held_out(training_data(meta, folder, advice))
    own = Config(**meta["config"])
    config = own if scene is None else replace(own, scene=scene)
    with suppress(Sat2DEMError):  # too small for three parts, for example
        data = prepare(config, pair)
        if data.fingerprint() == meta.get("data") or _name(data.source) == _name(meta.get("source", source_of(own))):
            return _held_out(data)
    tiles, source = every_tile(config, pair)
    text = f"scored on all {len(tiles)} tiles of {_name(source)}; {folder} was trained on"
    try:
        data = training_data(meta, folder, advice)
    except Sat2DEMError:
        trained_on = meta.get("source", "data that it did not record")
        return Subject(tiles, tiles, f"{text} {trained_on}, and the baselines are fitted to the scored tiles")
    size, trained = (math.sqrt(math.prod(part.gsd)) for part in (tiles, data.train))
    if not 0.9 < size / trained < 1.1:
        warnings.warn(
            f"{_name(source)} has pixels of {size:.0f} m, and the run was trained on {trained:.0f} m: "
            "resample the scene first, unless that is what you test", stacklevel=2,
        )
    trained_on = meta.get("source", data.source)
    return Subject(tiles, data.train, f"{text} {trained_on}, and the baselines are fitted to its training tiles")


def _held_out(data: Data) -> Subject:
    return Subject(data.test, data.train, f"scored on the {len(data.test)} held-out tiles of {_name(data.source)}")


def _name(source: str) -> str:
    return source.removesuffix(f", {GIVEN}")
