"""A model's weights into memory, and where they go."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdbatch.diffusion.families import Parts, StableDiffusion, StableDiffusionXL
from sdbatch.diffusion.models import ModelInfo, read_config
from sdbatch.errors import ModelError, RunError, UsageError

__all__ = ["load_family", "resolve_device", "resolve_dtype"]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TEXT_ENCODERS = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` (or `cuda:1`, …) as a device.

    Raises:
        UsageError: an unknown name, or CUDA where there is none.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is none of auto, cpu, cuda") from error
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is none of auto, cpu, cuda")
    if resolved.type == "cuda" and not available:
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA device")
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """`auto`, `fp16`, `bf16` or `fp32` as one of the last three: half precision on CUDA, single on a CPU.

    Raises:
        UsageError: an unknown name.
    """
    if dtype == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is none of auto, {', '.join(DTYPES)}")
    return dtype


def load_family(info: ModelInfo, dtype: str, device: torch.device) -> StableDiffusion:
    """Load a model's weights.

    Raises:
        ModelError: a part of it can't be read.
        RunError: it does not fit into the device's memory.
    """
    index = read_config(info.folder / "model_index.json")
    suffixes = ("", "_2") if info.family == "sdxl" else ("",)
    with _no_progress_bars():
        try:
            parts = Parts(
                info=info,
                tokenizers=[CLIPTokenizer.from_pretrained(info.folder / f"tokenizer{s}") for s in suffixes],
                text_encoders=[_text_encoder(info, index, f"text_encoder{s}", dtype, device) for s in suffixes],
                unet=_module(UNet2DConditionModel, info, "unet", dtype, device),
                vae=_module(AutoencoderKL, info, "vae", dtype, device),
                scheduler_config=read_config(info.folder / "scheduler" / "scheduler_config.json"),
                index=index,
            )
        except torch.OutOfMemoryError as error:
            raise RunError(f"{info.folder}: its weights do not fit into the memory of {device}") from error
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{info.folder}: can't be loaded: {error}") from error
    if info.family == "sdxl":
        # Its VAE overflows in half precision; the configuration says so.
        if dtype == "fp16" and parts.vae.config.force_upcast:
            parts.vae.float()
        return StableDiffusionXL(parts)
    return StableDiffusion(parts)


def _text_encoder(info: ModelInfo, index: dict, part: str, dtype: str, device: torch.device) -> torch.nn.Module:
    return _module(TEXT_ENCODERS[index[part][1]], info, part, dtype, device)


def _module(cls, info: ModelInfo, part: str, dtype: str, device: torch.device) -> torch.nn.Module:
    module = cls.from_pretrained(
        info.folder / part,
        torch_dtype=DTYPES[dtype],
        use_safetensors=True,
        variant=info.variant,
    )
    return module.to(device).eval().requires_grad_(False)


@contextmanager
def _no_progress_bars():
    """transformers draws one for each text encoder, which has no place in a worker's log."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
