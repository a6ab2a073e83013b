"""Which device computes, in which 16-bit type, and the advice where its memory is full."""

import pytest
import torch

from sat2dem_core.config import preset
from sat2dem_core.models import device
from sat2dem_core.models.device import half_type, memory_advice, pick_device


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
