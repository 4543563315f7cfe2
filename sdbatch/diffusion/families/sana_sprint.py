"""The engine half of Sana-Sprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import SanaSprintPipeline

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.sana import Sana
from sdbatch.diffusion.request import Request

__all__ = ["SanaSprint"]


class SanaSprint(Sana):
    """Runs SanaSprintPipeline at the row's exact size and with its prompt unchanged, as `Sana` does."""

    pipeline = SanaSprintPipeline

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        scale = torch.tensor(float(request.guidance_scale)).to(self.dtype) * self.denoiser.config.guidance_embeds_scale
        return [lane | {"guidance": send(scale, self.device)} for lane in super().conditioning(request, encoded, shape)]

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        # `timestep_scale` is Sana's; its distilled form does not use it.
        return run(latents, timestep=timesteps, return_dict=False, **conditioning)[0]
