"""What a run trains on: a scene's tiles in three parts, and batches of them on the device.

Decoding two rasters a sample starves a processor, let alone a GPU. So tiles rest in the device's memory, and are
cropped, mirrored and normalized there; those that do not fit stay where they are and stream, read ahead by a thread.
"""

import hashlib
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from sat2dem_core.config import FLIPS, Config
from sat2dem_core.errors import InvalidConfig, LostProcess, NoTiles, WrongShape
from sat2dem_core.dataset.normalize import Normalization, scale_image
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.tiles import Tiles, block_of, cut, divide, paper_split, split_groups


@dataclass(frozen=True)
class Data:
    """Tiles to train on, to choose the checkpoint by and to test on, and their normalization.

    ``rgb`` and ``dem`` of the tiles may be anything that a list of numbers indexes, a Zarr array for one: what is no
    plain NumPy array is read batch by batch. ``region`` is the ground that random crops are cut from.
    """

    train: Tiles
    validation: Tiles
    test: Tiles
    normalization: Normalization
    region: xr.Dataset | None = None

    def fingerprint(self) -> str:
        """SHA-256 of all tiles and the normalization."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test)]
        if self.region is not None:
            pixels = (np.ascontiguousarray(self.region[name].values).data for name in ("rgb", "dem"))
            parts += [hashlib.sha256(values).hexdigest() for values in pixels]
        return hashlib.sha256(",".join([*parts, repr(self.normalization)]).encode()).hexdigest()


def prepare(config: Config, scene: xr.Dataset | None = None) -> Data:
    """Open the scene, divide it, cut tiles and fit the normalization; a store's tiles are cut already.

    Args:
        scene: a Dataset of your own (see :func:`sat2dem_core.dataset.scenes.open_pair`) in place of ``config.scene``.
    """
    region = None
    if scene is None and config.scene.endswith(".zarr"):
        from sat2dem_core.dataset.store import read_parts  # dask takes seconds to import

        parts = read_parts(config.scene, config.split, config.version)
        if parts[0].size != config.tile:
            raise WrongShape(f"the tiles of {config.scene} have {parts[0].size} px: set tile={parts[0].size}")
        if config.crops:
            raise InvalidConfig(f"crops are cut from a scene, and {config.scene} is a store of tiles: set crops=false")
    else:
        scene = open_scene(config.scene) if scene is None else scene
        parts = _cut_parts(config, scene)
        region = divide(scene)[0] if config.crops else None
    extremes = np.concatenate([_extremes(part) for part in parts])
    return Data(*parts, Normalization.fit(config.normalization, extremes), region)


def _extremes(tiles: Tiles) -> np.ndarray:
    """Lowest and highest point of each tile, (N, 1, 2) meters: all that a normalization asks, read some tiles at a time."""
    parts = (np.asarray(tiles.dem[at : at + 256]) for at in range(0, len(tiles), 256))
    rows = [(np.fmin.reduce(part, (1, 2)), np.fmax.reduce(part, (1, 2))) for part in parts]
    return np.concatenate([np.stack(row, -1)[:, None] for row in rows])


def _cut_parts(config: Config, scene: xr.Dataset) -> tuple[Tiles, Tiles, Tiles]:
    if config.split == "space":
        west, south, east = divide(scene)
        return cut(west, config.tile, config.stride), cut(south, config.tile, config.tile // 2), cut(east, config.tile)
    tiles = cut(scene, config.tile, config.stride)
    if config.split == "blocks":
        parts = split_groups(block_of(tiles), config.version)
    else:
        parts = paper_split(config.version, len(tiles))
    if not all(parts):
        raise NoTiles(f"{len(tiles)} tiles are too few for the paper's split: choose smaller tiles or stride")
    train, validation, test = (tiles.take(part) for part in parts)
    return train, validation, test


@dataclass(frozen=True)
class Batch:
    """The rows of a step's batch that fall to this process.

    Attributes:
        image, dem: (B, 3, T, T) in [-1, 1] and (B, 1, T, T) normalized, NaN for nodata, on the device.
        first, total: where the rows begin in the whole batch, and its size.
        weight: their share in the update.
        index: which tiles they are, on the host; see :meth:`Batches.names`.
    """

    image: Tensor
    dem: Tensor
    first: int
    total: int
    weight: float
    index: Tensor


class Batches:
    """The training tiles as batches, in an order of each epoch's own.

    Args:
        data, config: what to train on, and how.
        device: where batches are needed.
        rank, processes: which of how many processes this is; each takes its share of every batch.
        room: bytes that tiles may take on the device; by default half of what a GPU has free, and no limit elsewhere.
    """

    def __init__(
        self, data: Data, config: Config, device: torch.device, rank: int = 0, processes: int = 1, room: int | None = None
    ):
        self.config, self.device, self.normalization = config, device, data.normalization
        self.tiles, self.rank, self.processes = data.train, rank, processes
        if room is None:
            room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else sys.maxsize
        source: Any = data.train if data.region is None else data.region
        arrays = [source.rgb, source.dem] if data.region is None else [source.rgb.values, source.dem.values]
        in_memory = all(type(array) is np.ndarray for array in arrays)  # a memmap, for one, is more than that
        self.resident = in_memory and sum(array.nbytes for array in arrays) <= room
        self.where = f"on the {device.type}" if self.resident else "in host memory" if in_memory else "on disk"
        self.rgb: Any
        self.dem: Any  # tensors on the device, or arrays beside it
        self.rgb, self.dem = [torch.from_numpy(array).to(device) for array in arrays] if self.resident else arrays
        self.corners: Tensor | None = None
        if data.region is not None:
            self._crop_from(*(torch.as_tensor(array) for array in (self.rgb, self.dem)))
        elif not self.resident and rank == 0:
            print(f"the training tiles stay {self.where} and stream from there", file=sys.stderr)

    def _crop_from(self, rgb: Tensor, dem: Tensor) -> None:
        """Every window of the region as a view, (h, w, ..., T, T), and the corners of those without nodata."""
        size = self.config.tile
        self.rgb, self.dem = (x.unfold(-2, size, 1).unfold(-2, size, 1) for x in (rgb.movedim(0, -3), dem))
        self.rgb = self.rgb.movedim(0, 2)
        holes = F.max_pool2d(dem.isnan().float()[None, None], size, stride=1)[0, 0]
        self.corners = (holes == 0).nonzero()  # (M, 2)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the ``skip``-th on; they depend on the seed and the epoch's number alone."""
        # odd, as the seeds of single steps are even: two streams
        count, seed = len(self.tiles), 2 * (self.config.seed + 100_003 * number) + 1
        draws = torch.Generator().manual_seed(seed % 2**64)
        order = torch.randperm(count, generator=draws)
        mirrored = (torch.rand(2, count, generator=draws) < 0.5).to(self.device)
        if self.corners is not None:
            order = torch.randint(len(self.corners), (count,), generator=draws)
        index = order.to(self.device) if self.resident else order  # copied once: no step waits for the host

        def load(whole: Tensor) -> tuple[Tensor, slice, Tensor, Tensor]:
            few = len(whole) < self.processes  # then each process computes them all, for the average of the same
            rows = whole if few else whole.tensor_split(self.processes)[self.rank]
            span = slice(int(rows[0]), int(rows[-1]) + 1)
            return whole, span, *self._read(index[span])

        wholes = torch.arange(count).split(self.config.batch)[skip:]
        for whole, span, rgb, dem in map(load, wholes) if self.resident else _ahead(load, wholes):
            rgb, dem = (tensor.to(self.device, non_blocking=True) for tensor in (rgb, dem))
            for axis in FLIPS[self.config.flips]:
                rgb, dem = _mirror(rgb, mirrored[axis, span], axis), _mirror(dem, mirrored[axis, span], axis)
            own = span.stop - span.start
            weight = 1 / self.processes if len(whole) < self.processes else own / len(whole)
            normalized = self.normalization.forward(dem)[0].unsqueeze(1)
            first = span.start - int(whole[0])
            yield Batch(scale_image(rgb), normalized, first, len(whole), weight, order[span])

    def names(self, index: Tensor) -> list[str]:
        """What a batch's tiles are called."""
        if self.corners is None:
            return [self.tiles.ids[number] for number in index]
        return [f"the crop at row {row}, column {column}" for row, column in self.corners[index.to(self.device)].tolist()]

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, T, T) and meters (B, T, T) of these tiles or crops."""
        if self.corners is not None:
            rows, columns = self.corners[index].unbind(1)
            return self.rgb[rows, columns], self.dem[rows, columns]
        if self.resident:
            return self.rgb[index], self.dem[index]
        numbers, place = index.sort()  # arrays on disk want their numbers in order
        arrays = (np.asarray(array[numbers.numpy()]) for array in (self.rgb, self.dem))
        rgb, dem = (torch.from_numpy(array)[place.argsort()] for array in arrays)
        return (rgb.pin_memory(), dem.pin_memory()) if self.device.type == "cuda" else (rgb, dem)


def _mirror(tiles: Tensor, chosen: Tensor, axis: int) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (tiles.ndim - 1)), tiles.flip(axis), tiles)


def _ahead(function: Callable, items: Iterable) -> Iterator:
    """``map``, in a thread that is one item ahead."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def join(device: torch.device) -> tuple[torch.device, int, int]:
    """Meet the other processes that a launcher started: this one's device, rank, and how many there are."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device, 0, 1
    from accelerate import PartialState  # takes a second to import

    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(minutes=10))
    return state.device, state.process_index, state.num_processes


@contextmanager
def first_alone(rank: int, processes: int) -> Iterator[None]:
    """The first process runs the body, then the others do, in which what it did on disk is done."""
    if rank:
        dist.barrier()
    yield
    if processes > 1 and not rank:
        dist.barrier()


@contextmanager
def together(processes: int, run: object) -> Iterator[None]:
    """Say so where the body fails because another process is gone.

    Raises:
        LostProcess: that is what happened.
    """
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or (not isinstance(error, dist.DistError) and "gloo" not in str(error)):
            raise
        raise LostProcess(
            f"another process of the run in {run} is gone: look at its message, and start the same command again to go "
            "on from the last checkpoint"
        ) from error


def processor() -> str:
    """Model of the device that trains."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that a device's memory is used up."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def memory_advice(tiles: int, config: Config, attempt: Callable[[int], object] | None) -> str:
    """What to do where so many tiles at once do not fit into memory.

    Args:
        attempt: a step on so many tiles at once, to find by trial how many fit; None where that cannot be tried.
    """
    said, fits, too_many = f"{tiles} tiles at once do not fit into the memory of {processor()}", 0, tiles
    while attempt and too_many - fits > 1:
        middle = (fits + too_many) // 2
        torch.cuda.empty_cache()
        try:
            attempt(middle)
            fits = middle
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            too_many = middle
    if not attempt:
        return f"{said}: use accumulate={2 * config.accumulate}, which gives the same update, or a smaller batch"
    if not fits:
        return f"{said}, nor does one: use fewer features, smaller tiles, or another device"
    parts = -(-config.batch // fits)
    return f"{said}; {fits} do: use batch={fits}, or accumulate={parts}, which gives the same update in {parts} parts"
