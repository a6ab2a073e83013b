"""The device that networks run on: how to pick it, its number formats, its name, and what to do when memory is full."""

import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class _Float32:
    """Whether PyTorch may round float32 to TF32, as switches of the whole process, which threads share."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, (("ieee", "ieee"), False)

    def enter(self, wanted: str) -> None:
        with self.lock:
            if not self.users:
                self.before = self.read()
            self.write((wanted, wanted), self.before[1])
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.write(*self.before)

    # PyTorch 2.9 added ``fp32_precision`` and refuses to read the older switches once somebody has set the new ones
    # otherwise. torch.compile still reads the older ones (github.com/pytorch/pytorch/issues/166387), and PyTorch before
    # 2.9 has no others: so these are the ones to set, unless the caller has set the new ones.
    def read(self) -> tuple[tuple[str, str], bool]:
        """The formats of matrix products and of convolutions, and whether they were set by the new switches."""
        cudnn: Any = torch.backends.cudnn
        try:
            return (torch.get_float32_matmul_precision(), "tf32" if cudnn.allow_tf32 else "ieee"), False
        except RuntimeError:
            return (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision), True

    def write(self, formats: tuple[str, str], new: bool) -> None:
        cudnn: Any = torch.backends.cudnn
        matmul, convolution = formats
        if new:
            torch.backends.cuda.matmul.fp32_precision = matmul
            cudnn.conv.fp32_precision = convolution
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch 2.9 to 2.12 advise to use the new switches
            torch.set_float32_matmul_precision({"ieee": "highest", "tf32": "high"}.get(matmul, matmul))
            cudnn.allow_tf32 = convolution == "tf32"


_FLOAT32 = _Float32()


@contextmanager
def float32_as(tf32: bool) -> Iterator[None]:
    """Compute in float32 or in TF32 during the context, whatever was set before; that is put back afterwards.

    Without it, PyTorch lets a GPU since Ampere round the inputs of float32 convolutions to TF32, but not those of
    matrix products. The switches belong to the whole process: contexts of several threads must ask for the same format,
    and the last of them to end puts back what was set before the first.

    Args:
        tf32: let the inputs of convolutions and matrix products be rounded to TF32.
    """
    _FLOAT32.enter("tf32" if tf32 else "ieee")
    try:
        yield
    finally:
        _FLOAT32.leave()


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
