"""Which device computes, in which 16-bit type, and the advice where its memory is full."""

import subprocess
import sys

import pytest
import torch

from sat2dem_core.config import preset
from sat2dem_core.models import device
from sat2dem_core.models.device import float32_as, half_type, memory_advice, pick_device


def test_each_process_of_a_launcher_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device() == torch.device("cuda", 3)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bfloat16_where_it_multiplies_it_and_in_float16_elsewhere(native, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert half_type(torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("fits", "advice"),
    [
        (1, "; 1 do: use batch=1, or accumulate=16, which computes the batch in 16 parts"),
        (5, "; 5 do: use batch=5, or accumulate=4, which computes the batch in 4 parts"),
        (15, "; 15 do: use batch=15, or accumulate=2, which computes the batch in 2 parts"),
        (0, ", nor does one: use fewer features, smaller tiles, or another device"),
    ],
)
def test_memory_advice_names_the_largest_batch_that_fits(fits, advice, monkeypatch):
    monkeypatch.setattr(device, "processor", lambda: "a small GPU")

    def attempt(tiles):
        if tiles > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    said = memory_advice(16, preset("cpu", batch=16), attempt)
    assert said == "16 tiles at once do not fit into the memory of a small GPU" + advice


def test_memory_advice_that_cannot_be_tried_doubles_the_parts():
    said = memory_advice(16, preset("cpu", batch=16, accumulate=2), attempt=None)
    assert said.endswith(": use accumulate=4, which computes the batch in 4 parts, or a smaller batch")


def test_memory_advice_hides_no_other_error():
    def attempt(tiles):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        memory_advice(16, preset("cpu"), attempt)


# --- float32 and TF32 -------------------------------------------------------------------------------------------------


def switches() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture
def untouched():
    """PyTorch's own settings, before and after."""
    assert switches() == ("highest", True)
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def test_float32_is_float32_unless_tf32_is_asked_for_and_the_switches_are_put_back(untouched):
    for tf32, meanwhile in ((False, ("highest", False)), (True, ("high", True))):
        with pytest.raises(KeyboardInterrupt), float32_as(tf32):
            assert switches() == meanwhile
            raise KeyboardInterrupt
        assert switches() == ("highest", True)
    torch.set_float32_matmul_precision("medium")
    with float32_as(False):
        assert switches() == ("highest", False)
    assert switches() == ("medium", True)


def test_threads_that_overlap_share_the_switches_and_the_last_puts_them_back(untouched):
    one, other = float32_as(False), float32_as(False)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert switches() == ("highest", False)
    other.__exit__(None, None, None)
    assert switches() == ("highest", True)


NEW = """
import torch
from sat2dem_core.models.device import float32_as

backends = torch.backends
formats = lambda: (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision)
backends.fp32_precision = "tf32"  # of all operations that have no format of their own
backends.cuda.matmul.fp32_precision = "tf32"
with float32_as(False):
    assert formats() == ("ieee", "ieee"), formats()
with float32_as(True):
    assert formats() == ("tf32", "tf32"), formats()
assert formats() == ("tf32", "tf32"), formats()
"""


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch before 2.9")
def test_a_program_that_set_the_new_switches_of_pytorch_gets_them_back():
    """In a process of its own: PyTorch does not forget which switches were set."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", NEW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
