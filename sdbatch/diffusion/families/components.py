"""The loaded parts of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sdbatch.diffusion.checkpoints.model_info import ModelInfo

__all__ = ["Components"]


@dataclass
class Components:
    """A Stable Diffusion checkpoint; `tokenizers` and `text_encoders` are pairs for SDXL, `parts` is all the rest."""

    info: ModelInfo
    tokenizers: list
    text_encoders: list[torch.nn.Module]
    unet: torch.nn.Module
    vae: torch.nn.Module
    scheduler_config: Mapping[str, object]
    index: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
