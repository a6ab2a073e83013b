"""Several processes that train one model: how they meet, wait for each other, and notice that one is gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from sat2dem_core.errors import LostProcess


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
