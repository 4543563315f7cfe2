"""LoRAs of the rows of a UNet, whose keys and values of a text are made once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdbatch.diffusion.accelerate.attention import TextProjection
from sdbatch.diffusion.adapters.lora_files import LoraModel
from sdbatch.diffusion.adapters.lora_rows import loras_of
from sdbatch.diffusion.adapters.row_loras import RowLoras
from sdbatch.diffusion.request import Request

__all__ = ["UNetLoras"]


class UNetLoras(RowLoras):
    """What a family of UNets needs for LoRAs that differ from row to row.

    Args:
        model: the layers that files may change.
        unet: with fused self-attention, and keys and values of texts taken from `text`.
        text: what makes them.
        encoders: the text encoders.
    """

    def __init__(
        self, model: LoraModel, unet: torch.nn.Module, text: TextProjection, encoders: Sequence[torch.nn.Module]
    ):
        parts = {f"text_encoder_{i + 1}" if i else "text_encoder": encoder for i, encoder in enumerate(encoders)}
        super().__init__(model, unet, text.linear.weight, parts, once_a_text=set(text.names))
        self._text = text

    def keys_values(self, request: Request, hidden_states: torch.Tensor) -> torch.Tensor:
        """What `TextProjection` makes of a row's text (tokens, dim), with what the row's LoRAs add to it."""
        made = self._text(hidden_states)
        for lora in loras_of(request):
            factors = self.bank.factors(lora.path)
            for name, part in self._text.names.items():
                if (own := factors.get(("unet", name))) is not None:
                    down, up = (tensor.to(made.device) for tensor in (own.down.flatten(1), own.up))
                    made[:, part] += (hidden_states @ down.t() * (own.scale * lora.weight)) @ up.t()
        return made
