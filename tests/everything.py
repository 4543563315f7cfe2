"""A small model as a single file, and everything that a run may add to it, in folders to be put into a store."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent / "diffusion"))

from control_checkpoints import build_controlnet, edges
from ip_adapter_checkpoints import build_ip_adapters
from lora_checkpoints import build_lora
from single_file_checkpoints import as_single_file, build_original

__all__ = ["OPTIONS", "build_everything", "change_lora", "change_vae", "write_table"]

OPTIONS = ("--steps", 2, "--sampler", "ddim", "--height", 64, "--width", 64, "--actors", 1, "--shard-size", 2)


def build_everything(folder: Path) -> Path:
    """Folders `model` (small.safetensors), `parts` (vae, text_encoder, tokenizer), `toy`, `loras`, `net` and `ip`."""
    whole = build_original(folder / "whole", "sd1")
    for name in ("model", "toy", "loras"):
        (folder / name).mkdir()
    as_single_file(whole, folder / "model" / "small.safetensors", "sd1")
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(whole / part, folder / "parts" / part)
    change_vae(folder / "parts", 0.5)
    save_file({"emb_params": torch.randn(2, 64)}, folder / "toy" / "toy.safetensors")
    build_lora(folder / "loras" / "one.safetensors", whole, seed=1)
    build_controlnet(folder / "net", whole, 0)
    build_ip_adapters(folder / "ip" / "models", whole)
    return folder


def change_vae(parts: Path, factor: float) -> None:
    vae = AutoencoderKL.from_pretrained(parts / "vae")
    vae.decoder.conv_out.weight.data.mul_(factor)
    vae.save_pretrained(parts / "vae")


def change_lora(folder: Path) -> Path:
    return build_lora(folder / "loras" / "one.safetensors", folder / "whole", seed=2)


def write_table(folder: Path, lora: str, net: str, ip_adapter: str) -> Path:
    """A row with a token, one with a LoRA, one with a ControlNet, one with an IP-Adapter."""
    edges(64, 64, seed=1).save(folder / "a.png")
    lines = ["prompt,seed,lora,controlnet,control_image,ip_adapter,ip_adapter_image", "a <toy>,1,,,,,"]
    lines += [f"a cat,2,{lora},,,,", f"a cat,3,,{net},a.png,,", f"a cat,4,,,,{ip_adapter},a.png"]
    (folder / "p.csv").write_text("\n".join(lines) + "\n")
    return folder / "p.csv"
