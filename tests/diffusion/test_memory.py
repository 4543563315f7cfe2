"""Out-of-memory errors of all libraries are recognised, and no other errors."""

from __future__ import annotations

import pytest
import torch

from sdbatch.diffusion.device.memory import is_out_of_memory
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from sdbatch.errors import RunError

# As they are reported in public issues.
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1981808640 bytes."),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("out of memory of former runs"),
]
REQUESTS = [Request(f"prompt {i}", seed=i, steps=3 + i % 3) for i in range(6)]


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
def test_every_name_of_a_shortage(error):
    assert is_out_of_memory(error)
    wrapped = RunError("the model does not fit")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_none(error):
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_is_too_large():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert is_out_of_memory(raised.value)


def failing(function, error: Exception, while_more_than):
    """`function`, which fails as long as `while_more_than()` is true."""

    def limited(*arguments, **named):
        if while_more_than():
            raise error
        return function(*arguments, **named)

    return limited


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
def test_a_shortage_of_any_name_halves_the_lanes(sd, error):
    engine = Engine(sd, lanes=8)
    engine.family.denoise = failing(engine.family.denoise, error, lambda: engine.lanes > 4)
    images = list(engine.generate(REQUESTS))
    assert not [image.error for image in images if image.error]
    assert engine.lanes == 4


def test_an_error_that_is_no_shortage_leaves_the_engine(sd):
    engine = Engine(sd, lanes=8)
    engine.family.denoise = failing(engine.family.denoise, OTHERS[0], lambda: True)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(engine.generate(REQUESTS))


def test_decoding_gets_memory_from_the_lanes_before_a_row_fails(sd):
    engine = Engine(sd, lanes=8)
    engine.family.decode = failing(engine.family.decode, SHORTAGES[2], lambda: engine.lanes > 4)
    images = list(engine.generate(REQUESTS))
    assert not [image.error for image in images if image.error]
    said = engine.describe()["out_of_memory"]
    assert "decoding 2 pictures at once halved to 1" in said
    assert any(text.startswith("8 lanes halved to 4") for text in said)


def test_others_get_memory_from_the_lanes_of_a_gpu(sd):
    engine = Engine(sd, lanes=8)
    assert not engine.make_room() and engine.lanes == 8  # a CPU's is not the engine's
    for one in REQUESTS:
        engine.submit(one)
    images = engine.step()
    engine._device = torch.device("cuda")
    assert engine.make_room() and engine.lanes == 4
    assert not engine.make_room()  # until rows are in lanes again
    while not engine.idle:
        images += engine.step()
    assert len(images) == len(REQUESTS) and not [image.error for image in images if image.error]


@pytest.mark.parametrize("rescuable", [True, False])
def test_a_rescue_without_memory_ends_no_engine(sd, rescuable):
    """Its engine reports the shortage by an error of its own, as when its weights do not fit."""
    engine = Engine(sd, lanes=8, dtype="bf16")
    engine.family.decode = lambda latents: torch.full((len(latents), 3, 64, 64), torch.nan)
    shortage = RunError("its weights do not fit into the memory of cpu")
    shortage.__cause__ = SHORTAGES[0]
    rescue = engine._rescue
    rescue._make_engine = failing(rescue._make_engine, shortage, lambda: engine.lanes > 4 or not rescuable)
    images = list(engine.generate(REQUESTS))
    assert len(images) == len(REQUESTS)
    errors = [image.error for image in images if image.error]
    if rescuable:
        assert not errors and engine.lanes == 4
    else:
        assert len(errors) == len(REQUESTS) and all(
            "not enough memory to retry in float32" in error for error in errors
        )
