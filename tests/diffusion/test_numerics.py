"""The switches of a GPU's rounding, which can be set without a GPU."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sdbatch.diffusion.accelerate.attention import attention_backends
from sdbatch.diffusion.device.numerics import describe_numerics, pin_numerics
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def torchs_own_switches():
    """They are the process's: set to torch's own before a test, and again after it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def reset():
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = True, False, True
        matmul.allow_tf32 = True
        matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = True
        torch.backends.cuda.enable_cudnn_sdp(True)

    reset()
    yield
    reset()
    matmul.allow_tf32 = cudnn.benchmark = False


def load(folder, dtype):
    return load_family(inspect_model(folder), dtype, torch.device("cpu"))


def test_float32_is_ieee_and_nothing_is_chosen_by_timing():
    pin_numerics(CUDA)
    assert describe_numerics(CUDA, tf32_decoder=False) == {
        "float32": "IEEE",
        "reduced_precision_reduction": False,
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "cudnn_attention": False,  # there is no cuDNN here, so it is older than any
    }
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("version, used", [(8906, False), (90100, False), (91002, False), (91500, True), (92400, True)])
def test_attention_of_an_old_cudnn_is_not_used(monkeypatch, version, used):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    pin_numerics(CUDA)
    assert torch.backends.cuda.cudnn_sdp_enabled() is used


def test_a_cpu_is_left_as_it_is(sd):
    engine = Engine(sd, lanes=2)
    assert torch.backends.cudnn.benchmark and torch.backends.cudnn.allow_tf32
    described = engine.describe()
    assert described["numerics"] is None and described["attention"] is None and described["driver"] is None


@pytest.mark.parametrize(
    "model, dtype, allowed",
    [("sdxl", "fp16", True), ("sdxl", "fp32", False), ("sd", "fp16", False), ("sd", "fp32", False)],
)
def test_tf32_stays_in_the_upcast_decoder_alone(model, dtype, allowed, request, monkeypatch):
    pin_numerics(CUDA)
    family = load(request.getfixturevalue(model), dtype)
    seen = []
    decode = family.vae.decode

    def spied(*args, **options):
        seen.append(torch.backends.cudnn.allow_tf32)
        return decode(*args, **options)

    monkeypatch.setattr(family.vae, "decode", spied)
    with torch.inference_mode():
        family.decode(torch.zeros(1, 4, 8, 8))
    assert seen == [allowed] and not torch.backends.cudnn.allow_tf32
    assert describe_numerics(CUDA, tf32_decoder=family.tf32_decoder)["float32"].startswith("TF32") is allowed


@pytest.mark.parametrize(
    "dtype, vae, decoder", [("fp16", None, "float32"), ("fp16", "fix", "float16"), ("bf16", None, "bfloat16")]
)
def test_a_vae_in_half_precision_is_an_option(sdxl, tmp_path, dtype, vae, decoder):
    """A VAE whose configuration says that it does not overflow (`--vae madebyollin/sdxl-vae-fp16-fix`), or bf16."""
    swapped = shutil.copytree(sdxl / "vae", tmp_path / "fix")
    config = json.loads((swapped / "config.json").read_text())
    (swapped / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    info = inspect_model(sdxl, vae=swapped if vae else None)
    family = load_family(info, dtype, torch.device("cpu"))
    assert family.vae.dtype == getattr(torch, decoder)
    assert family.tf32_decoder is (decoder == "float32")


@torch.inference_mode()
def test_attention_is_told_by_shape(sd):
    family = load(sd, "fp32")
    with attention_backends() as found:
        family.denoise(*trial_inputs(family, 2))
    assert any(shape.endswith("× 24") for shape in found)  # the text's context
    assert any(shape.endswith("64 × 64") for shape in found)  # 8 × 8 latents among themselves
    assert set(found.values()) <= {"math", "flash_attention"}
