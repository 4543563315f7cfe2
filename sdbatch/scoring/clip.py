"""CLIP score: how well a picture matches its prompt (Radford et al. 2021, Hessel et al. 2021, Zhai et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError
from sdbatch.scoring.networks import load_network, model_type, networks_described
from sdbatch.scoring.scorer import Score, Scorer, in_fixed_batches

__all__ = ["Clip", "ClipNetwork"]

BATCH = 8
# Model, configuration and image processor, by the configuration's `model_type`.
KINDS = {
    "clip": (CLIPModel, CLIPConfig, CLIPImageProcessorPil),
    "siglip": (SiglipModel, SiglipConfig, SiglipImageProcessorPil),
}


class ClipNetwork:
    """A CLIP or SigLIP model in float32, whose rounding does not depend on the number of pictures per call.

    Args:
        folder: a folder in transformers' format, with tokenizer and image processor.
        device: a torch device's name.

    Attributes:
        width: the width of its embeddings.

    Raises:
        ModelError: it cannot be read, or is of another kind.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        self.folder = folder
        kind = model_type(folder)
        if kind not in KINDS:
            raise ModelError(f"{folder}: is a model of type {kind!r}; expected {' or '.join(KINDS)}")
        model, config, processor = KINDS[kind]
        self._model = load_network(model, config, folder, device)
        self.width: int = getattr(self._model.config, "projection_dim", self._model.config.vision_config.hidden_size)
        self._processor = processor.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """Embeddings (N, width), float32 of length 1, of uint8 pictures (H, W, 3)."""
        pixels = [self._processor(picture, return_tensors="pt").pixel_values[0] for picture in pictures]
        found = in_fixed_batches(self._picture_batch, pixels, BATCH)
        return torch.nn.functional.normalize(torch.stack(found), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (N, width), float32 of length 1; longer texts are truncated to the model's context."""
        found = in_fixed_batches(self._text_batch, texts, BATCH)
        return torch.nn.functional.normalize(torch.stack(found), dim=-1)

    def _picture_batch(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        vision = self._model.vision_model(pixel_values=torch.stack(pixels).to(self.device))
        return self._projected("visual_projection", vision.pooler_output)

    def _text_batch(self, texts: list[str]) -> torch.Tensor:
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        # SigLIP was trained to attend to padding.
        named = tokens if isinstance(self._model, CLIPModel) else {"input_ids": tokens.input_ids}
        text = self._model.text_model(**{name: tensor.to(self.device) for name, tensor in named.items()})
        return self._projected("text_projection", text.pooler_output)

    def _projected(self, projection: str, pooled: torch.Tensor) -> torch.Tensor:
        """The embeddings; SigLIP's have no projection."""
        return getattr(self._model, projection, torch.nn.Identity())(pooled).float().cpu()


class Clip(Scorer):
    """CLIP score: the cosine similarity of a picture and its prompt, typically 0.2 to 0.35 for a match (SigLIP: 0.1).

    Some evaluations (torchmetrics) multiply it by 100.
    """

    batch = BATCH

    def __init__(self, folder: Path, device: str) -> None:
        self._network = ClipNetwork(folder, device)

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        shown = self._network.pictures(pictures)
        told = self._network.texts([request.prompt for request in requests])
        return [{"clip": float(cosine)} for cosine in (shown * told).sum(dim=-1)]

    def describe(self) -> Mapping[str, Any]:
        return networks_described(self._network.folder, device=self._network.device)
