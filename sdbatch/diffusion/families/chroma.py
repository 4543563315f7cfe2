"""The engine half of Chroma."""

from __future__ import annotations

import torch

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Named
from sdbatch.diffusion.families.flux import Flux
from sdbatch.diffusion.request import Request

__all__ = ["Chroma"]


class Chroma(Flux):
    """Runs ChromaPipeline."""

    prompt_tokenizer = "tokenizer"
    inputs = ("attention_mask",)

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        embedding = self.denoiser.time_text_embed
        embedding.guidance_proj = _NoGuidance(embedding.guidance_proj, self.device)

    def encode(self, texts: list[Text]) -> Named:
        ids, mask = self.tokenize("tokenizer", [text.content for text in texts], self.info.max_tokens)
        hidden_states = self.parts["text_encoder"](ids, attention_mask=mask)[0]
        # One token of padding counts as text. The mask is of numbers, as in the pipeline, so attention adds 1 to
        # scores between the tokens that it marks, and does not hide the others.
        marked = torch.arange(self.info.max_tokens, device=self.device) <= mask.sum(dim=1, keepdim=True)
        return {"encoder_hidden_states": hidden_states.to(self.dtype), "attention_mask": marked.to(self.dtype)}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        lanes = super().conditioning(request, encoded, shape)
        picture = lanes[0]["attention_mask"].new_ones(shape[1] // 2 * (shape[2] // 2))
        return [lane | {"attention_mask": torch.cat([lane["attention_mask"], picture])} for lane in lanes]

    def keep_whole(self) -> set[torch.nn.Module]:
        """Also the small network that makes the modulations of all blocks."""
        return super().keep_whole() | set(self.denoiser.distilled_guidance_layer.modules())


class _NoGuidance(torch.nn.Module):
    """The embedding of guidance 0, kept on the device.

    The transformer makes it on the host in every pass and copies it, which can't be recorded as a CUDA graph.
    """

    def __init__(self, embed: torch.nn.Module, device: torch.device):
        super().__init__()
        self.register_buffer("embedding", embed(torch.zeros(1, dtype=torch.long)).to(device), persistent=False)

    def forward(self, guidance: torch.Tensor) -> torch.Tensor:
        return self.embedding.expand(len(guidance), -1)
