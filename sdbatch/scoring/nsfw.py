"""Stable Diffusion's safety checker as a scorer: a flag and a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sdbatch.diffusion.request import Request
from sdbatch.scoring.networks import load_network, networks_described
from sdbatch.scoring.scorer import Score, Scorer, in_fixed_batches

__all__ = ["Nsfw"]

BATCH = 8
# The checker's adjustment for pictures close to one of its special concepts.
SPECIAL_CARE = 0.01


class Nsfw(Scorer):
    """`nsfw`, the decision of diffusers' StableDiffusionSafetyChecker, and `nsfw_score`, its margin.

    The score is the largest excess over a concept's threshold, rounded to three digits as in the checker; a picture
    with 0.001 or more is flagged.

    Args:
        checker: folder of the checker, a model's `safety_checker`.
        processor: folder of its image processor, a model's `feature_extractor`.
        device: a torch device's name.

    Raises:
        ModelError: a folder cannot be read.
    """

    batch = BATCH

    def __init__(self, checker: Path, processor: Path, device: str) -> None:
        self._folder, self._device = checker, device
        self._checker = load_network(StableDiffusionSafetyChecker, CLIPConfig, checker, device)
        self._processor = CLIPImageProcessorPil.from_pretrained(processor)

    @torch.inference_mode()
    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        pixels = [self._processor(picture, return_tensors="pt").pixel_values[0] for picture in pictures]
        scores = [round(float(excess), 3) for excess in in_fixed_batches(self._excess, pixels, BATCH)]
        return [{"nsfw": score > 0, "nsfw_score": score} for score in scores]

    def describe(self) -> Mapping[str, Any]:
        return networks_described(self._folder, device=self._device)

    def _excess(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        checker = self._checker
        pooled = checker.vision_model(torch.stack(pixels).to(self._device))[1]
        embeddings = checker.visual_projection(pooled)
        special = cosine_distance(embeddings, checker.special_care_embeds) - checker.special_care_embeds_weights
        concepts = cosine_distance(embeddings, checker.concept_embeds) - checker.concept_embeds_weights
        care = (special.double().round(decimals=3) > 0).any(dim=1, keepdim=True)
        return (concepts.double() + SPECIAL_CARE * care).amax(dim=1).cpu()
