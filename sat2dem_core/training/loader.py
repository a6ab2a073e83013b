"""Batches of training tiles on the device.

Decoding two rasters for every sample would starve a processor, let alone a GPU. So the tiles stay in the device's
memory and are cropped, mirrored and normalized there; tiles that do not fit stay where they are, and a thread reads
them ahead.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core.config import FLIPS, Config
from sat2dem_core.dataset.normalize import scale_image
from sat2dem_core.dataset.parts import Data


@dataclass(frozen=True)
class Batch:
    """This process's tiles of one step's batch.

    Attributes:
        image, dem: (B, 3, T, T) in [-1, 1] and (B, 1, T, T) normalized, NaN for nodata, on the device.
        total: number of tiles in the whole batch.
        weight: share of these tiles in the update.
        index: which tiles they are, on the host; see :meth:`Batches.names`.
    """

    image: Tensor
    dem: Tensor
    total: int
    weight: float
    index: Tensor


class Batches:
    """The training tiles as batches, in another order each epoch.

    Args:
        data, config: the run's data and settings.
        device: where batches are needed.
        rank, processes: number of this process, and of how many; each takes its share of every batch.
        room: bytes that tiles may take on the device; by default half of what a GPU has free, and no limit elsewhere.
    """

    def __init__(
        self, data: Data, config: Config, device: torch.device, rank: int = 0, processes: int = 1,
        room: int | None = None,
    ):
        self.config, self.device, self.normalization = config, device, data.normalization
        self.tiles, self.rank, self.processes = data.train, rank, processes
        if room is None:
            room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else sys.maxsize
        source: Any = data.train if data.region is None else data.region
        arrays = [source.rgb, source.dem] if data.region is None else [source.rgb.values, source.dem.values]
        in_memory = all(type(array) is np.ndarray for array in arrays)  # a memmap is a subclass
        self.resident = in_memory and sum(array.nbytes for array in arrays) <= room
        self.where = f"on the {device.type}" if self.resident else "in host memory" if in_memory else "on disk"
        self.rgb: Any
        self.dem: Any  # tensors on the device, or arrays elsewhere
        self.rgb, self.dem = [torch.from_numpy(array).to(device) for array in arrays] if self.resident else arrays
        self.corners: Tensor | None = None
        if data.region is not None:
            self._crop_from(*(torch.as_tensor(array) for array in (self.rgb, self.dem)))
        elif not self.resident and rank == 0:
            print(f"the training tiles stay {self.where} and stream from there", file=sys.stderr)

    def _crop_from(self, rgb: Tensor, dem: Tensor) -> None:
        """Make every window of the region a view, (h, w, ..., T, T), and list the corners of those without nodata."""
        size = self.config.tile
        self.rgb, self.dem = (x.unfold(-2, size, 1).unfold(-2, size, 1) for x in (rgb.movedim(0, -3), dem))
        self.rgb = self.rgb.movedim(0, 2)
        holes = F.max_pool2d(dem.isnan().float()[None, None], size, stride=1)[0, 0]
        self.corners = (holes == 0).nonzero()  # (M, 2)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the ``skip``-th on; they depend on the seed and the epoch's number alone."""
        # Odd, because the seeds of single steps are even: so no epoch and step share random numbers.
        count, seed = len(self.tiles), 2 * (self.config.seed + 100_003 * number) + 1
        draws = torch.Generator().manual_seed(seed % 2**64)
        order = torch.randperm(count, generator=draws)
        mirrored = (torch.rand(2, count, generator=draws) < 0.5).to(self.device)
        if self.corners is not None:
            order = torch.randint(len(self.corners), (count,), generator=draws)
        index = order.to(self.device) if self.resident else order  # copied once, so that no step waits for the host

        def load(batch: Tensor) -> tuple[int, slice, Tensor, Tensor]:
            rows = self._own_rows(batch)
            return len(batch), rows, *self._read(index[rows])

        batches = torch.arange(count).split(self.config.batch)[skip:]
        for total, rows, rgb, dem in map(load, batches) if self.resident else _ahead(load, batches):
            rgb, dem = (tensor.to(self.device, non_blocking=True) for tensor in (rgb, dem))
            for axis in FLIPS[self.config.flips]:
                rgb, dem = _mirror(rgb, mirrored[axis, rows], axis), _mirror(dem, mirrored[axis, rows], axis)
            weight = 1 / self.processes if total < self.processes else (rows.stop - rows.start) / total
            normalized = self.normalization.forward(dem)[0].unsqueeze(1)
            yield Batch(scale_image(rgb), normalized, total, weight, order[rows])

    def _own_rows(self, batch: Tensor) -> slice:
        """Which of an epoch's tiles fall to this process: its share of a batch, or all if some would get none."""
        rows = batch if len(batch) < self.processes else batch.tensor_split(self.processes)[self.rank]
        return slice(int(rows[0]), int(rows[-1]) + 1)

    def names(self, index: Tensor) -> list[str]:
        """Names of a batch's tiles."""
        if self.corners is None:
            return [self.tiles.ids[number] for number in index]
        corners = self.corners[index.to(self.device)].tolist()
        return [f"the crop at row {row}, column {column}" for row, column in corners]

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, T, T) and meters (B, T, T) of these tiles or crops."""
        if self.corners is not None:
            rows, columns = self.corners[index].unbind(1)
            return self.rgb[rows, columns], self.dem[rows, columns]
        if self.resident:
            return self.rgb[index], self.dem[index]
        numbers, order = index.sort()  # arrays on disk want their numbers in order
        arrays = (np.asarray(array[numbers.numpy()]) for array in (self.rgb, self.dem))
        rgb, dem = (torch.from_numpy(array)[order.argsort()] for array in arrays)
        return (rgb.pin_memory(), dem.pin_memory()) if self.device.type == "cuda" else (rgb, dem)


def _mirror(tiles: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Mirror the chosen tiles: (B, ..., T, T) and (B,)."""
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
