"""LoRA files of random numbers for a small checkpoint, made with peft's own layers, in the common formats."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYTHING = (
    *ATTENTION,
    *("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *(
        "conv_in",
        "conv_out",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    ),
)
TEXTS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def build_lora(
    path: Path,
    folder: Path,
    *,
    rank: int = 4,
    alpha: float = 4,
    targets: Sequence[str] = ATTENTION,
    texts: bool = False,
    kohya: bool = False,
    seed: int = 1,
    gain: float = 0.7,
    **config,
) -> Path:
    """A file in peft's names, whose alpha is its rank, or in kohya's with alphas.

    Args:
        folder: of the checkpoint.
        targets: layers of the UNet.
        texts: whether it changes the text encoders, too.
        config: rank_pattern, alpha_pattern.
    """
    pipe = DiffusionPipeline.from_pretrained(folder)
    parts = {"unet": (pipe.unet, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), **config))}
    for name in ("text_encoder", "text_encoder_2") if texts else ():
        if getattr(pipe, name, None) is not None:
            parts[name] = getattr(pipe, name), LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TEXTS))
    tensors: dict[str, torch.Tensor] = {}
    single = len([name for name in ("text_encoder", "text_encoder_2") if getattr(pipe, name, None) is not None]) == 1
    for part, (network, lora) in parts.items():
        network.add_adapter(lora, "x")
        _randomise(network, seed, gain if part == "unet" else gain * 0.6)
        prefix = KOHYA[part].replace("te1", "te") if single else KOHYA[part]
        tensors |= _kohya(network, part, prefix) if kohya else _peft(network, part)
    save_file(tensors, path)
    return path


def build_loras(folder: Path, checkpoint: Path) -> Mapping[str, Path]:
    """Four files of different formats, ranks and layers."""
    patterns = {"rank_pattern": {"to_q": 2, "ff.net.0.proj": 18, "conv1": 3}, "alpha_pattern": {"to_v": 1}}
    options = {
        "attention": {"seed": 1},
        "texts": {"rank": 8, "texts": True, "kohya": True, "seed": 2},
        "everything": {"rank": 8, "targets": EVERYTHING, "texts": True, "kohya": True, "seed": 3, "gain": 0.4},
        "patterns": {"targets": EVERYTHING, "kohya": True, "seed": 4, "gain": 0.4, **patterns},
    }
    folder.mkdir()
    return {name: build_lora(folder / f"{name}.safetensors", checkpoint, **own) for name, own in options.items()}


def build_transformer_loras(folder: Path, checkpoint: Path, *, kohya: bool) -> Mapping[str, Path]:
    """Three files for a diffusion transformer, of different ranks and layers; one in kohya's names, if so wished."""
    found = {}
    plain = DiffusionPipeline.from_pretrained(checkpoint).transformer
    for seed, (name, rank, whole) in enumerate((("attention", 4, False), ("everything", 8, True), ("wide", 24, False))):
        transformer = copy.deepcopy(plain)
        linear = [own for own, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
        targets = linear if whole else [own for own in linear if "attn" in own or "attention" in own]
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank / 2 if whole else rank, target_modules=targets), "x")
        _randomise(transformer, seed, 0.6 if whole else 1.2)
        tensors = (
            _kohya(transformer, "transformer", "lora_unet_") if kohya and whole else _peft(transformer, "transformer")
        )
        found[name] = folder / f"{name}.safetensors"
        save_file(tensors, found[name])
    return found


def _randomise(network: torch.nn.Module, seed: int, gain: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * gain / fan**0.5


def _adapted(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in network.named_modules() if hasattr(module, "scaling")}


def _peft(network: torch.nn.Module, part: str) -> dict[str, torch.Tensor]:
    """Peft's names say nothing of alpha: it is multiplied in."""
    tensors = {
        f"{part}.{name}": tensor for name, tensor in get_peft_model_state_dict(network, adapter_name="x").items()
    }
    for name, module in _adapted(network).items():
        tensors[f"{part}.{name}.lora_B.weight"] = tensors[f"{part}.{name}.lora_B.weight"] * module.scaling["x"]
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _kohya(network: torch.nn.Module, part: str, prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in _adapted(network).items():
        full = name if part in ("unet", "transformer") or name.startswith("text_model") else f"text_model.{name}"
        own = prefix + full.replace(".", "_")
        found[f"{own}.lora_down.weight"] = module.lora_A["x"].weight.detach().contiguous().clone()
        found[f"{own}.lora_up.weight"] = module.lora_B["x"].weight.detach().contiguous().clone()
        found[f"{own}.alpha"] = torch.tensor(float(module.scaling["x"] * module.r["x"]))
    return found
