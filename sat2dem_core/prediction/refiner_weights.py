"""Weights that refine a coarse DEM: the network, the interval of its heights, and a card; one safetensors file."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sat2dem_core.errors import DamagedCheckpoint, UnknownName
from sat2dem_core.models.device import pick_device
from sat2dem_core.models.refiner import Refiner
from sat2dem_core.prediction.confidence import SlopeInterval
from sat2dem_core.prediction.weights import REFINER, find_weights, read_tensors, write_tensors

REFINING = "refine"  # the name of those that come with the package


@dataclass(frozen=True)
class RefinerWeights:
    """A trained refiner with what is needed to use it.

    Attributes:
        network: in evaluation mode.
        gsd: the finest and the coarsest ground sampling distance at which an image is taken as it is, meters.
        interval: calibrated prediction interval.
        card: for the reader: name, data, terms, scores, limits, command, seed, date.
        sha256: of the file.
    """

    network: Refiner
    gsd: tuple[float, float]
    interval: SlopeInterval
    card: dict[str, Any] = field(repr=False)
    sha256: str


def save_refiner(
    path: str | os.PathLike, network: Refiner, *, gsd: tuple[float, float], interval: SlopeInterval,
    card: dict[str, Any],
) -> Path:
    """Write refining weights; the arguments are the attributes of :class:`RefinerWeights`.

    Raises:
        CannotWrite: the disk is full or the folder not writable; an existing file is untouched.
    """
    meta = {
        "kind": REFINER, "widths": network.widths, "gsd": gsd, "interval": asdict(interval), "card": card,
    }
    write_tensors(Path(path), network, meta)
    return Path(path)


def load_refiner(source: str | os.PathLike = REFINING) -> RefinerWeights:
    """Load refining weights by name, from a file or from a URL.

    Raises:
        UnknownName: there are no such weights, or they do not refine a DEM.
        UnsafeWeights, DamagedCheckpoint, Unreachable, DamagedDownload: as for other weights.
    """
    path = find_weights(source)
    meta, tensors, sha256 = ({}, {}, "") if path.is_dir() else read_tensors(path)
    if meta.get("kind") != REFINER:
        raise UnknownName(f"{source} does not refine a DEM: choose refining weights, such as {REFINING!r}")
    try:
        network = Refiner(tuple(meta["widths"]))
        network.load_state_dict(tensors)
        interval, card = SlopeInterval.read(meta["interval"]), meta["card"]
        gsd = float(meta["gsd"][0]), float(meta["gsd"][1])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(f"{path} does not hold a refiner ({error!r}): download it again") from error
    return RefinerWeights(network.to(pick_device()).eval(), gsd, interval, card, sha256)
