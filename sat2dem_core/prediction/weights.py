"""Weights to predict with: one safetensors file with the generator and all that is needed to interpret its output.

A run resumes from its checkpoint; to predict, its checkpoint is packed into weights. These hold the generator in half
precision, its normalization, the range of ground sampling distances it was trained on, the training distribution of
images, the calibrated prediction interval, and a card for the reader. The package never reads a pickle, because opening
one can run any code in it.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sat2dem_core.config import Config
from sat2dem_core.dataset.augment import relief_unit
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.digest import digest
from sat2dem_core.errors import DamagedCheckpoint, UnknownName, UnsafeWeights
from sat2dem_core.models.device import pick_device
from sat2dem_core.models.networks import UNet
from sat2dem_core.paths import data_folder, downloads
from sat2dem_core.prediction.confidence import Domain, Interval
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.download import fetch
from sat2dem_core.training.checkpoints import Model, check_data, load_checkpoint, load_model, training_data

DEFAULT = "relief"
REFINER = "refiner"  # the kind of weights that refine a DEM; see sat2dem_core.prediction.refiner_weights
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


@dataclass(frozen=True)
class Weights:
    """A trained model with what is needed to predict with it.

    Attributes:
        model: the network and its normalization.
        gsd: the finest and the coarsest ground sampling distance that it was trained on, meters.
        hurst: the network predicts heights in units of ``(gsd / 30 m) ** hurst`` meters; 0 for meters.
        domain: training distribution of images.
        interval: calibrated prediction interval.
        card: for the reader: name, data, terms, scores, limits, command, seed, date.
        sha256: of the file.
    """

    model: Model
    gsd: tuple[float, float]
    hurst: float
    domain: Domain
    interval: Interval
    card: dict[str, Any] = field(repr=False)
    sha256: str

    @property
    def relative(self) -> bool:
        """Whether the network predicts heights above each tile's lowest point (Shift), not elevations (Global)."""
        return self.model.normalization.kind == "shift"

    def unit(self, gsd: float) -> float:
        """The network's unit of height at a ground sampling distance (meters), in meters."""
        return relief_unit(gsd, self.hurst)


def save_weights(
    path: str | os.PathLike, model: Model, *, gsd: tuple[float, float], domain: Domain, interval: Interval,
    card: dict[str, Any], hurst: float = 0.0,
) -> Path:
    """Write weights to a safetensors file; the arguments are the attributes of :class:`Weights`.

    Raises:
        CannotWrite: the disk is full or the folder not writable; an existing file is untouched.
    """
    meta = {
        "config": asdict(model.config), "normalization": asdict(model.normalization), "gsd": gsd, "hurst": hurst,
        "interval": asdict(interval), "card": card,
        "domain": {"mean": domain.mean.tolist(), "precision": domain.precision.tolist(), "limit": domain.limit},
    }
    write_tensors(Path(path), model.generator, meta)
    return Path(path)


def shipped() -> dict[str, Path]:
    """Paths of the weights that come with the package, by name."""
    return {path.stem: path for path in sorted(data_folder("weights").glob("*.safetensors"))}


def load_weights(source: str | os.PathLike = DEFAULT) -> Weights:
    """Load weights by name, from a file, from a run's folder, or from a URL.

    Args:
        source: a name of :func:`shipped`; the path of a ``.safetensors`` file; a run's folder, whose best checkpoint is
            packed on first use (see :func:`pack`); or ``https://…#sha256=…``, downloaded once and verified.

    Raises:
        UnknownName: it is none of these; the message lists the names.
        UnsafeWeights: it is a pickle, or a URL without a checksum.
        DamagedCheckpoint: the file is cut short, or not written by :func:`save_weights`.
        Unreachable, DamagedDownload: see :func:`sat2dem_core.rasters.download.fetch`.
    """
    path = find_weights(source)
    return _read(pack(path) if path.is_dir() else path)


def find_weights(source: str | os.PathLike) -> Path:
    """The file of weights, or the folder of a run, by name, path or address; see :func:`load_weights`."""
    text = str(source)
    if urlparse(text).scheme in ("http", "https"):
        return _download(text)
    path = shipped().get(text) or Path(source)
    if path.is_dir():
        return path
    if not path.is_file():
        names = ", ".join(shipped())
        raise UnknownName(f"unknown weights {text!r}: no such file or run; choose one of {names}, or give a path")
    if _is_pickle(path):
        raise UnsafeWeights(
            f"{path} is a pickle, and opening one can run any code that is in it: give weights as safetensors, or the "
            "folder of a run of this project"
        )
    return path.parent if path.suffix == ".json" else path


def _download(address: str) -> Path:
    url, _, fragment = address.partition("#")
    if not fragment.startswith("sha256=") or len(fragment) != 71:
        raise UnsafeWeights(
            f"{address} has no checksum: write {url}#sha256=<64 digits>, with the checksum that their publisher gives"
        )
    name = f"{fragment[7:19]}-{Path(urlparse(url).path).name or 'weights'}"
    return fetch(url, downloads("fetched-weights") / name, f"sha256:{fragment[7:]}")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    return path.suffix in PICKLES or head in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


def _read(path: Path) -> Weights:
    """Read a file of :func:`save_weights`."""
    meta, tensors, sha256 = read_tensors(path)
    if meta.get("kind") == REFINER:
        raise UnknownName(
            f"{path} refines a DEM, and there is none: give it with --anchors, or choose weights that predict from an "
            f"image alone, such as {DEFAULT}"
        )
    try:
        config, normalization = Config(**meta["config"]), Normalization(**meta["normalization"])
        interval, domain = Interval(**meta["interval"]), _domain(meta["domain"])
        gsd = float(meta["gsd"][0]), float(meta["gsd"][1])
        hurst, card = meta["hurst"], meta["card"]
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, error) from error
    model = Model(_generator(config, tensors, path), normalization, config)
    return Weights(model, gsd, hurst, domain, interval, card, sha256)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """What a file of weights says of itself, its tensors as float32, and its SHA-256.

    Raises:
        DamagedCheckpoint: the file is cut short, or none of this project.
    """
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["sat2dem"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, not a dictionary
    except SafetensorError as error:
        raise DamagedCheckpoint(
            f"{path} is not a complete safetensors file ({error}): download or pack it again"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, error) from error
    return meta, tensors, sha256


def write_tensors(path: Path, network: torch.nn.Module, meta: dict[str, Any]) -> None:
    """Write a network in half precision, with what :func:`read_tensors` returns of it.

    Raises:
        CannotWrite: the disk is full or the folder not writable; an existing file is untouched.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    content = save(tensors, {"sat2dem": json.dumps(meta)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _foreign(path: Path, error: Exception) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{path} does not hold weights of this project ({error!r}): pack a run's folder, or download other weights"
    )


def _domain(meta: dict[str, Any]) -> Domain:
    return Domain(np.array(meta["mean"]), np.array(meta["precision"]), meta["limit"])


def _generator(config: Config, tensors: dict[str, torch.Tensor], path: Path) -> UNet:
    """The network of ``config`` with these parameters, in evaluation mode."""
    generator = UNet(config.attention, config.features, config.tile, form=config.attention_form)
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise DamagedCheckpoint(
            f"{path}: the tensors do not fit the network that the file describes: download or pack it again"
        ) from error
    return generator.to(pick_device()).eval()


def pack(folder: str | os.PathLike, data: Data | None = None, most: int = 512) -> Path:
    """Write weights from a run's best checkpoint into its folder, unless they exist already.

    The domain is fitted to the training tiles. The interval has the same width everywhere, calibrated on the errors of
    the validation tiles: of the height above each tile's mean for Shift, of the elevation for Global.

    Args:
        folder: of the run.
        data: what the run was trained on (a :class:`sat2dem_core.dataset.parts.Data`), if that is not the data that
            its config names.
        most: number of tiles at most, in each of the two parts.

    Returns:
        The path of the weights.

    Raises:
        DamagedCheckpoint: the folder does not hold a complete run.
        RunExists: the run was trained on other data.
    """
    folder = Path(folder)
    best = folder / "best.json"
    if not best.is_file():
        raise DamagedCheckpoint(f"{folder} holds no run (no best.json): give the folder that train --run wrote")
    model, meta = load_model(best), load_checkpoint(best)[1]
    path = folder / f"weights-{meta['sha256'][:12]}-{digest(['weights', 'confidence'])}.safetensors"
    if path.is_file():
        return path
    advice = "pack it with pack(folder, data=...)"
    if data is None:
        data = training_data(meta, folder, advice)
    else:
        check_data(meta, data, folder, advice)
    error = _validation_error(model, data, _evenly(len(data.validation), most))
    gsd = float(np.sqrt(data.train.gsd[0] * data.train.gsd[1]))
    card = {
        "name": folder.name, "data": f"the training part of {meta.get('source', data.source)}",
        "seed": model.config.seed,
        "limits": "an interval of one width, from the run's own validation tiles, which chose its checkpoint",
    }
    if "initial_weights" in meta:  # which have seen other data
        card["initial weights"] = "{source}, SHA-256 {sha256}".format(**meta["initial_weights"])
    return save_weights(
        path, model, gsd=(gsd, gsd), card=card,
        domain=Domain.fit(np.asarray(data.train.rgb[_evenly(len(data.train), most)])),
        interval=Interval.calibrate(error.numpy().ravel(), np.zeros(error.numel())),
    )


def _evenly(size: int, most: int) -> list[int]:
    """Up to ``most`` indices, evenly spaced from 0 to ``size - 1``."""
    return np.linspace(0, size - 1, min(most, size)).astype(int).tolist()


def _validation_error(model: Model, data: Data, index: list[int]) -> torch.Tensor:
    """Prediction minus truth of these validation tiles, (N, T, T) meters; for Shift, less each tile's mean."""
    scale = model.normalization
    truth, _ = scale.forward(torch.as_tensor(np.asarray(data.validation.dem[index])))
    error = model.predict(data.validation.rgb[index]) - truth
    if scale.kind == "shift":
        error = error - error.nanmean((-2, -1), keepdim=True)
    return error * (scale.high - scale.low) / 2
