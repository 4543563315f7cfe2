"""Scenes as tensors."""

from __future__ import annotations

import random

import torch

from sdbatch.tiny import scenes

__all__ = ["draw"]


def draw(batch: list[scenes.Scene], rng: random.Random) -> torch.Tensor:
    """Pictures from `sdbatch.tiny.scenes.draw` as a tensor: float32 (B, 3, 64, 64) in [0, 1]."""
    return torch.from_numpy(scenes.draw(batch, rng))
