"""Several processes that train one model: how they meet, add up, wait for each other, and notice that one is gone.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sat2dem_core.errors import LostProcess


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
        """Return when every process has come here."""
        if self.processes > 1:
            dist.barrier()

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
        dist.init_process_group(backend, timeout=timedelta(minutes=10), device_id=own_gpu)
    return Group(device, dist.get_rank(), dist.get_world_size())
