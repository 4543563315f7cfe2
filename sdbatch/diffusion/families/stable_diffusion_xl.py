"""Stable Diffusion XL (Podell et al. 2023): two text encoders, pooled text, size conditioning."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdbatch.diffusion.adapters.t2i_adapter_rows import calls_by_factor
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.clip_texts import Prompts
from sdbatch.diffusion.families.components import Components
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.stable_diffusion import StableDiffusion
from sdbatch.diffusion.families.text_fields import numbers_of_size
from sdbatch.diffusion.guidance import is_guided
from sdbatch.diffusion.request import TEXT_TO_IMAGE, Request
from sdbatch.diffusion.tasks import task_of
from sdbatch.diffusion.tasks.task import Run

__all__ = ["StableDiffusionXL"]

SAME_IN_BOTH = (TEXT_TO_IMAGE, "instruct-edit")


class StableDiffusionXL(StableDiffusion):
    """Runs StableDiffusionXLPipeline."""

    takes_penultimate = True

    def __init__(self, components: Components):
        # `force_upcast` in the configuration means that the VAE overflows in half precision.
        if components.unet.dtype == torch.float16 and components.vae.config.force_upcast:
            components.vae.float()
        super().__init__(components)
        self._zero_negative = bool(components.index.get("force_zeros_for_empty_prompt", True))
        mean, std = (self.vae.config.get(name) for name in ("latents_mean", "latents_std"))
        self._latents_mean_std = None
        if mean is not None and std is not None:
            values = (torch.tensor(of_channels).view(1, -1, 1, 1) for of_channels in (mean, std))
            self._latents_mean_std = tuple(send(tensor, self.device) for tensor in values)

    def prompts(self, request: Request) -> tuple[Prompts, ...]:
        prompt, negative, extra = request.prompt, request.negative_prompt, request.extra
        pairs = (prompt, extra.get("prompt_2") or prompt), (negative, extra.get("negative_prompt_2") or negative)
        lanes = tuple(pair[-self._clip.encoders :] for pair in pairs)  # the refiner has only the second encoder
        is_zero = self._zero_negative and not any(lanes[1])
        return lanes[:1] if is_zero or not is_guided(request, self.info) else lanes

    def adapter_calls(self, request: Request, run: Run, calls: int) -> int:
        return min(calls, calls_by_factor(request, run.steps - run.left_out))

    def _encode(self, texts: list[Text], encoders: Sequence[torch.nn.Module]) -> Named:
        states, pooled = self._clip.encode(texts, encoders)
        # The pooled embedding is the last encoder's, as in StableDiffusionXLPipeline.encode_prompt.
        return {
            "encoder_hidden_states": torch.cat(states, dim=-1).to(self.dtype),
            "text_embeds": pooled.to(self.dtype),
        }

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        encoded = self.joined(request, encoded)
        if is_guided(request, self.info) and len(encoded) == 1:
            encoded = [encoded[0], {name: torch.zeros_like(tensor) for name, tensor in encoded[0].items()}]
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        sizes = size_conditions(request, (shape[1] * scale, shape[2] * scale))
        lanes = self._project(request, encoded)
        return [
            named | {"time_ids": send(torch.tensor(numbers, dtype=torch.float32), self.device)}
            for named, numbers in zip(lanes, sizes, strict=False)
        ]

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        if self._latents_mean_std is None:
            return super()._unscale(latents)
        mean, std = self._latents_mean_std
        return latents * std / self.vae.config.scaling_factor + mean

    def _added(self, conditioning: Named) -> dict[str, torch.Tensor]:
        return {name: conditioning[name] for name in ("text_embeds", "time_ids")}


def size_conditions(request: Request, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Original size, top left of the crop, and target size, for the conditional and the unconditional lane.

    Defaults are those of the row's pipeline: for text to image and edits both lanes use the same values unless negative
    ones are given; for the other tasks the unconditional lane's crop starts at the top left.

    Args:
        size: height and width of the picture.
    """

    def given(name: str) -> tuple[int, int] | None:
        text = request.extra.get(name)
        return None if text is None else numbers_of_size(text)

    original, target = given("original_size") or size, given("target_size") or size
    crop = given("crops_coords_top_left") or (0, 0)
    others = given("negative_original_size"), given("negative_target_size")
    other_crop = given("negative_crops_coords_top_left") or (0, 0)
    if not all(others):
        other_crop = crop if task_of(request).name in SAME_IN_BOTH else other_crop
        others = original, target
    return (*original, *crop, *target), (*others[0], *other_crop, *others[1])
