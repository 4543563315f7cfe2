"""Attention masks of text encoders that do not depend on which texts are in a batch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["mask_every_batch"]

NAME = "sdpa_with_mask"


def mask_every_batch(encoder: torch.nn.Module) -> None:
    """Have a text encoder of transformers pass its padding mask to every attention.

    By itself it leaves the mask out if no text of the batch is padded. Torch then takes another kernel, which can round
    differently; and for that decision the host would wait for a GPU.
    """
    if encoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, sdpa_attention_forward)
        AttentionMaskInterface.register(NAME, _mask)
        encoder.set_attn_implementation(NAME)


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor | None:
    """The mask as `sdpa_mask` makes it; left out only if no padding mask was given."""
    if attention_mask is not None:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, attention_mask=attention_mask, **options)
