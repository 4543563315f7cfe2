"""Applies LoRAs to a UNet, whose keys and values of a text are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdbatch.diffusion.accelerate.attention import TextProjection
from sdbatch.diffusion.adapters.lora_files import LoraModel
from sdbatch.diffusion.adapters.lora_rows import loras_of
from sdbatch.diffusion.adapters.lora_slots import on_device
from sdbatch.diffusion.adapters.row_loras import RowLoras
from sdbatch.diffusion.request import Request

__all__ = ["UNetLoras"]


class UNetLoras(RowLoras):
    """Applies LoRAs that differ between rows to a UNet and its text encoders.

    Args:
        model: the layers that files may change.
        unet: the UNet, with fused self-attention, and with the texts' keys and values from `text`.
        text: computes the texts' keys and values.
        encoders: the text encoders.
    """

    def __init__(
        self, model: LoraModel, unet: torch.nn.Module, text: TextProjection, encoders: Sequence[torch.nn.Module]
    ):
        parts = {f"text_encoder_{i + 1}" if i else "text_encoder": encoder for i, encoder in enumerate(encoders)}
        super().__init__(model, unet, text.linear.weight, parts, once_per_text=set(text.names))
        self._text = text

    def keys_values(self, request: Request, hidden_states: torch.Tensor) -> torch.Tensor:
        """The keys and values of a row's text (tokens, dim), as from `TextProjection`, with the row's LoRAs."""
        made = self._text(hidden_states)
        weighted_files = ((lora, lora.weight) for lora in loras_of(request))
        loras = self.additions(weighted_files, "unet", lambda layer: layer[1] in self._text.names)
        for layer, weighted in on_device(loras, made.device).items():
            part = self._text.names[layer]
            for own, weight in weighted:
                made[:, part] += (hidden_states @ own.down.flatten(1).t() * (own.scale * weight)) @ own.up.t()
        return made
