"""Weights to predict with: one safetensors file that says everything needed to read its output.

A run's checkpoint is for going on with the run; weights are for using what came of it. They hold the generator in half
precision, its normalization, the ground sampling distances it knows, what its training images looked like, how wide an
interval must be, and a card for the reader. No pickle is ever read: opening one can run any code that is in it.
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
from sat2dem_core.digest import digest
from sat2dem_core.errors import DamagedCheckpoint, RunExists, UnknownName, UnsafeWeights
from sat2dem_core.models.device import pick_device
from sat2dem_core.models.networks import UNet
from sat2dem_core.paths import data_folder, downloads
from sat2dem_core.prediction.confidence import Domain, Interval
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.download import fetch
from sat2dem_core.training.checkpoints import Model, load_checkpoint, load_model

DEFAULT = "relief"
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


@dataclass(frozen=True)
class Weights:
    """A model and what is known about it.

    Attributes:
        model: the network and its normalization.
        gsd: the finest and the coarsest ground sampling distance that it knows, meters.
        hurst: heights come out in units of ``(gsd / 30 m) ** hurst`` meters; 0 where they are meters.
        domain: what its training images looked like.
        interval: how wide an interval must be.
        card: what a reader should know: name, data, terms, scores, limits, command, seed, date.
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
        """Whether heights are known only within a tile, as Shift has it."""
        return self.model.normalization.kind == "shift"

    def unit(self, gsd: float) -> float:
        """Meters that the network's meter stands for at a ground sampling distance."""
        return relief_unit(gsd, self.hurst)


def save_weights(
    path: str | os.PathLike, model: Model, *, gsd: tuple[float, float], domain: Domain, interval: Interval,
    card: dict[str, Any], hurst: float = 0.0,
) -> Path:
    """Write weights; arguments as in :class:`Weights`.

    Raises:
        CannotWrite: the disk is full or the folder not writable; what stood there is untouched.
    """
    meta = {
        "config": asdict(model.config), "normalization": asdict(model.normalization), "gsd": gsd, "hurst": hurst,
        "interval": asdict(interval), "card": card,
        "domain": {"mean": domain.mean.tolist(), "precision": domain.precision.tolist(), "limit": domain.limit},
    }
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.generator.state_dict().items()}
    content = save(tensors, {"sat2dem": json.dumps(meta)})
    with replacing(Path(path)) as beside:
        beside.write_bytes(content)
    return Path(path)


def shipped() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(data_folder("weights").glob("*.safetensors"))}


def load_weights(source: str | os.PathLike = DEFAULT) -> Weights:
    """Load weights by name, from a file, from a run's folder, or from an address.

    Args:
        source: a name of :func:`shipped`; the path of a ``.safetensors`` file; a run's folder, whose best checkpoint
            is packed on first use (see :func:`pack`); or ``https://…#sha256=…``, fetched once and verified.

    Raises:
        UnknownName: it is none of these; the message lists the names.
        UnsafeWeights: it is a pickle, or an address without a checksum.
        DamagedCheckpoint: the file is cut short, or not written by :func:`save_weights`.
        Unreachable, DamagedDownload: see :func:`sat2dem_core.rasters.atomic.fetch`.
    """
    text = str(source)
    if urlparse(text).scheme in ("http", "https"):
        return _load(_fetched(text))
    path = shipped().get(text) or Path(source)
    if path.is_dir():
        return _load(pack(path))
    if not path.is_file():
        raise UnknownName(f"unknown weights {text!r}: no such file or run; choose one of {', '.join(shipped())}, or give a path")
    with path.open("rb") as file:
        head = file.read(2)
    if path.suffix in PICKLES or head in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise UnsafeWeights(
            f"{path} is a pickle, and opening one can run any code that is in it: give weights as safetensors, or the folder "
            "of a run of this project"
        )
    if path.suffix == ".json":
        return _load(pack(path.parent))
    return _load(path)


def _fetched(address: str) -> Path:
    url, _, fragment = address.partition("#")
    if not fragment.startswith("sha256=") or len(fragment) != 71:
        raise UnsafeWeights(f"{address} has no checksum: write {url}#sha256=<64 digits>, as whoever offers the weights states it")
    name = f"{fragment[7:19]}-{Path(urlparse(url).path).name or 'weights'}"
    return fetch(url, downloads("fetched-weights") / name, f"sha256:{fragment[7:]}")


def _load(path: Path) -> Weights:
    advice = "fetch or pack it again"
    content = path.read_bytes()
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["sat2dem"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, no dictionary
        config, normalization = Config(**meta["config"]), Normalization(**meta["normalization"])
        domain = meta["domain"]
        domain = Domain(np.array(domain["mean"]), np.array(domain["precision"]), domain["limit"])
        interval = Interval(**meta["interval"])
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path} is no whole safetensors file ({error}): {advice}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{path} holds no weights of this project ({error!r}): pack a run's folder, or fetch weights that were"
        ) from error
    generator = UNet(config.attention, config.features, config.tile, form=config.attention_form)
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise DamagedCheckpoint(f"{path}: the tensors are of another network than the file says: {advice}") from error
    model = Model(generator.to(pick_device()).eval(), normalization, config)
    gsd = (float(meta["gsd"][0]), float(meta["gsd"][1]))
    return Weights(model, gsd, meta["hurst"], domain, interval, meta["card"], hashlib.sha256(content).hexdigest())


def pack(folder: str | os.PathLike, data: Any = None, most: int = 512) -> Path:
    """Make weights of a run's best checkpoint, in its folder, unless they are there already.

    The domain is taken from up to ``most`` training tiles. The interval is of one width everywhere, from the errors on
    up to ``most`` validation tiles: of relief about each tile's mean for Shift, of height for Global.

    Args:
        data: what the run was trained on (a :class:`sat2dem_core.training.loader.Data`), where that is not what its config names.

    Raises:
        DamagedCheckpoint: the folder holds no whole run.
        RunExists: the run was trained on other data.
    """
    from sat2dem_core.dataset.parts import prepare  # a run's data may be a store, and dask takes seconds to import

    folder = Path(folder)
    best = folder / "best.json"
    if not best.is_file():
        raise DamagedCheckpoint(f"{folder} holds no run (there is no best.json): give the folder that train --run wrote")
    model, meta = load_model(best), load_checkpoint(best)[1]
    path = folder / f"weights-{meta['sha256'][:12]}-{digest(['weights', 'confidence'])}.safetensors"
    if path.is_file():
        return path
    data = prepare(model.config) if data is None else data
    if data.fingerprint() != meta["data"]:
        raise RunExists(
            f"{folder} was trained on other data than scene {model.config.scene}: pack it with pack(folder, data=...)"
        )
    sizes = len(data.train), len(data.validation)
    train, validation = (np.linspace(0, size - 1, min(most, size)).astype(int).tolist() for size in sizes)
    rgb, dem = data.validation.rgb[validation], torch.as_tensor(np.asarray(data.validation.dem[validation]))
    truth, _ = model.normalization.forward(dem)
    error = model.predict(rgb) - truth
    if model.normalization.kind == "shift":
        error = error - error.nanmean((-2, -1), keepdim=True)
    error = error * (model.normalization.high - model.normalization.low) / 2
    gsd = float(np.sqrt(data.train.gsd[0] * data.train.gsd[1]))
    card = {
        "name": folder.name, "data": f"scene {model.config.scene}, its training part", "seed": model.config.seed,
        "limits": "an interval of one width, from the run's own validation tiles, which chose its checkpoint",
    }
    return save_weights(
        path, model, gsd=(gsd, gsd), card=card, domain=Domain.fit(np.asarray(data.train.rgb[train])),
        interval=Interval.calibrate(error.numpy().ravel(), np.zeros(error.numel())),
    )
