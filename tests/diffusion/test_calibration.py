"""An engine's calibration to a GPU, on a simulated one: the order of its steps, and too little memory in each."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import flow_checkpoints
import pytest
import torch

from sdbatch.diffusion.device import calibration, hardware
from sdbatch.diffusion.device.hardware import describe_device
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.errors import RunError

CUDA = torch.device("cuda")
FOUND = {"8 heads of 40, 4096 × 77": "flash_attention"}
STEPS = ("attention", "warm-up", "checks", "graphs")


@pytest.fixture
def steps(monkeypatch):
    """The steps of a calibration with their lanes; `limits` says with how many lanes each still fits."""
    state = SimpleNamespace(done=[], limits={})

    def step(name, result=None):
        def run(family, lanes, *_, **__):
            if lanes > state.limits.get(name, 64):
                raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
            state.done.append((name, lanes))
            return result

        return run

    checks = SimpleNamespace(found={}, lane_invariant=True, graphs=False)
    checks.at_the_start = lambda lanes, batch: step("checks")(None, lanes)
    monkeypatch.setattr(calibration, "pin_numerics", lambda device: state.done.append(("numerics", device.type)))
    monkeypatch.setattr(calibration, "lanes_that_fit", lambda family: 32)
    monkeypatch.setattr(calibration, "pass_attention", step("attention", FOUND))
    monkeypatch.setattr(calibration, "warm_up", step("warm-up"))
    monkeypatch.setattr(calibration, "DeviceChecks", lambda family: checks)
    monkeypatch.setattr(calibration, "cuda_graph_error", step("graphs"))
    state.family = SimpleNamespace(device=CUDA, info=SimpleNamespace(name="sdxl", height=1024, width=1024))
    state.calibrate = lambda: calibration.calibrate(state.family, None, "on")
    return state


def test_rounding_is_fixed_before_anything_runs_and_attention_is_looked_at_before_it_is_compiled(steps):
    found = steps.calibrate()
    assert steps.done == [("numerics", "cuda"), *((name, 32) for name in STEPS)]
    assert found.attention == FOUND and found.lanes == 32 and found.decode_batch == 4
    assert found.compile == "on" and found.cuda_graph_error is None and found.checks.graphs


@pytest.mark.parametrize("name", STEPS)
def test_too_little_memory_in_any_step_halves_the_lanes_and_is_recorded(steps, name):
    steps.limits[name] = 8
    found = steps.calibrate()
    assert found.lanes == 8 and found.decode_batch == 2
    assert found.out_of_memory == ("32 lanes halved to 16 at the start", "16 lanes halved to 8 at the start")
    assert [lanes for step, lanes in steps.done if step == STEPS[-1]] == [8]


def test_what_a_failed_try_leaves_in_cycles_is_freed_before_the_next(steps, monkeypatch):
    left, alive = [], []

    class Activations:
        def __init__(self):
            self.cycle = self

    def warm_up(family, lanes, **_):
        alive.append([reference() is not None for reference in left])
        left.append(weakref.ref(Activations()))
        if lanes > 8:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    monkeypatch.setattr(calibration, "warm_up", warm_up)
    gc.disable()
    try:
        assert steps.calibrate().lanes == 8
    finally:
        gc.enable()
    assert alive == [[], [False], [False, False]]


@pytest.mark.parametrize("name", STEPS)
def test_a_gpu_for_which_two_lanes_are_too_many_is_named(steps, name):
    steps.limits[name] = 1
    with pytest.raises(RunError, match="sdxl does not fit on cuda with 2 lanes at 1024x1024"):
        steps.calibrate()


def test_the_pass_attention_is_that_of_unet_and_decoder(sd):
    family = load_family(inspect_model(sd), "fp32", torch.device("cpu"))
    found = calibration.pass_attention(family, 4)
    heads = family.denoiser.config.attention_head_dim
    assert any(shape.startswith(f"{heads} heads of") for shape in found)
    assert any(shape.startswith("1 heads of") for shape in found)  # the VAE's
    assert all(isinstance(kernel, str) for kernel in found.values())


@pytest.mark.parametrize("name", flow_checkpoints.FLOWS)
def test_so_it_is_for_every_transformer(name, tmp_path):
    family = load_family(inspect_model(flow_checkpoints.FLOWS[name](tmp_path / name)), "fp32", torch.device("cpu"))
    assert calibration.pass_attention(family, 4)


def test_a_gpu_is_described_by_all_that_its_bits_depend_on(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Module  570.133.20  Sun Mar 23 2025\nGCC version: 12.3.0")
    monkeypatch.setattr(hardware, "DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    assert describe_device(CUDA) == {
        "device_name": "NVIDIA H200",
        "compute_capability": "9.0",
        "driver": "570.133.20",
        "cuda": "13.0",
        "cudnn": "92000",
    }
    monkeypatch.setattr(hardware, "DRIVER", tmp_path / "absent")
    assert describe_device(CUDA)["driver"] is None
