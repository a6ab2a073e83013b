"""The device that networks run on: how to pick it, its 16-bit type, its name, and advice where its memory is full."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from sat2dem_core.config import Config


def pick_device() -> torch.device:
    """The fastest device there is: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))  # each process of a launcher has its own
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def half_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type for mixed precision: bfloat16 where the device multiplies it natively, float16 on other GPUs."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # On a processor without these instructions torch emulates them, slower than float32.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else None


def processor() -> str:
    """Name of the device that computes: the GPU's, or the processor's model."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
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
    complaint = f"{tiles} tiles at once do not fit into the memory of {processor()}"
    if attempt is None:
        parts = 2 * config.accumulate
        return f"{complaint}: use accumulate={parts}, which computes the batch in {parts} parts, or a smaller batch"
    fits = _most_that_fit(tiles, attempt)
    if not fits:
        return f"{complaint}, nor does one: use fewer features, smaller tiles, or another device"
    parts = -(-config.batch // fits)
    return (
        f"{complaint}; {fits} do: use batch={fits}, or accumulate={parts}, which computes the batch in {parts} parts"
    )


def _most_that_fit(too_many: int, attempt: Callable[[int], object]) -> int:
    """The largest number of tiles, by bisection, that ``attempt`` has memory for."""
    fits = 0
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        torch.cuda.empty_cache()
        try:
            attempt(middle)
            fits = middle
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            too_many = middle
    return fits
