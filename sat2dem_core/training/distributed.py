"""Several processes that train one model: how they meet, add up, agree, wait for each other, and notice a lost one.

A launcher starts the processes and tells each its place in the variables RANK, LOCAL_RANK and WORLD_SIZE. In a shell
that is ``torchrun``. In a notebook it is torch's elastic launcher, before any cell has used the GPU, because the
processes are copies of the notebook's::

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def work():
        train(config, run="runs/two")

    processes = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="fork",
        run_id="two", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )
    elastic_launch(processes, work)()
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from sat2dem_core.errors import LostProcess

TIMEOUT = timedelta(minutes=10)  # how long a process within a step waits for the others


@dataclass(frozen=True)
class Group:
    """The processes that share a run, as one of them sees them.

    Attributes:
        device: the device of this process.
        rank: its number; the first process, 0, also writes files and the progress bar.
        processes: how many there are.
    """

    device: torch.device
    rank: int = 0
    processes: int = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, on this process's device where there are several."""
        if self.processes > 1:
            tensor = tensor.to(self.device)
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Return when every process has come here, however long the slowest takes; see :func:`_patient`."""
        if self.processes > 1:
            dist.barrier(_patient(dist.group.WORLD))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the body in the first process, then in the others, which find on disk what the first has written."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    @contextmanager
    def together(self, run: object) -> Iterator[None]:
        """Run the body; where it fails because another process is gone, the error says so.

        Raises:
            LostProcess: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.processes == 1 or (not isinstance(error, dist.DistError) and "gloo" not in str(error)):
                raise
            raise LostProcess(
                f"another process of the run in {run} is gone: look at its message, and start the same command again "
                "to go on from the last checkpoint"
            ) from error


class Agreement:
    """Yes or no after a step, the same in every process.

    Clocks and signals differ between processes, and all of them must collect, save and end at the same step. To ask the
    others after every step would cost a transfer each time and, on a GPU, a wait until the step is computed, when the
    host could prepare the next. So the processes ask each other about once in ``EVERY`` seconds: at a step that all of
    them know, because the first one measures how long steps take and says at each meeting how many will pass before the
    next. Between two processes on two busy cores (Gloo), an exchange took 1.5 ms: a tenth of a short step, but about a
    thousandth of the time between two meetings.
    """

    EVERY = 1.0

    def __init__(self, group: Group):
        self.group, self.time = group, time.monotonic()
        self.steps = self.left = 1  # from meeting to meeting, and until the next

    def reached(self, due: bool, asked: bool) -> tuple[bool, bool]:
        """What all processes do after this step; to be called after each step by every process.

        Args:
            due: the first process wants it; the others' opinion does not count.
            asked: this process wants it; one is enough.

        Returns:
            The same two answers for all processes. Several say no to both while they wait for their next meeting.
        """
        if self.group.processes == 1:
            return due, asked
        self.left -= 1
        if self.left:
            return False, False
        first = self.group.rank == 0
        seconds = (time.monotonic() - self.time) / self.steps  # for a step
        steps = min(2 * self.steps, max(1, int(self.EVERY / max(seconds, 1e-9))))  # twice, in case steps become slower
        votes = self.group.add_up(torch.tensor([first * due, asked, first * steps], dtype=torch.int64))
        all_due, all_asked, self.steps = votes.tolist()
        self.left, self.time = self.steps, time.monotonic()
        return bool(all_due), bool(all_asked)


def join(device: torch.device) -> Group:
    """Meet the other processes that a launcher started; without a launcher, a group of one.

    Args:
        device: of this process: its own GPU, or the processor. Gloo, which connects processes without NVIDIA GPUs,
            adds up tensors in main memory only, so these processes compute on the processor.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Group(device)
    device = device if device.type == "cuda" else torch.device("cpu")
    if not dist.is_initialized():
        own_gpu = device if device.type == "cuda" else None
        if own_gpu is not None:
            torch.cuda.set_device(own_gpu)
        backend = "gloo" if own_gpu is None else "nccl"
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=own_gpu)
    _patient(dist.group.WORLD)  # made by all processes at once
    return Group(device, dist.get_rank(), dist.get_world_size())


@lru_cache(maxsize=1)
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """The same processes as a group that waits without a limit worth the name.

    Within a step a process that is silent for ``TIMEOUT`` is lost. Before and between, the first process may download a
    data set or read a large store while the others wait; Gloo notices at once if it is gone.
    """
    return dist.new_group(backend="gloo", timeout=timedelta(days=365))
