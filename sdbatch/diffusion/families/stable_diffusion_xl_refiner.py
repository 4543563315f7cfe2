"""The refiner of Stable Diffusion XL (Podell et al. 2023): one text encoder, and an aesthetic score."""

from __future__ import annotations

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.refiner_family import SCORES
from sdbatch.diffusion.families.stable_diffusion_xl import StableDiffusionXL
from sdbatch.diffusion.request import Request

__all__ = ["StableDiffusionXLRefiner"]


class StableDiffusionXLRefiner(StableDiffusionXL):
    """Runs StableDiffusionXLImg2ImgPipeline with a UNet conditioned on an aesthetic score."""

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        lanes = super().conditioning(request, encoded, shape)
        given = (request.extra.get(field.name) for field in SCORES)
        scores = [field.default if value is None else value for field, value in zip(SCORES, given, strict=True)]
        for lane, score in zip(lanes, scores, strict=False):
            # original size, the crop's top left, and the score in place of the target size
            tensor = send(torch.tensor([score], dtype=torch.float32), self.device)
            lane["time_ids"] = torch.cat([lane["time_ids"][:4], tensor])
        return lanes
