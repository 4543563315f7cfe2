"""Text to image: a row starts from noise alone."""

from __future__ import annotations

from sdbatch.diffusion.adapters.control_rows import controls_of
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.sizes import own_size
from sdbatch.diffusion.tasks.task import Task

__all__ = ["TextToImage"]


class TextToImage(Task):
    """The task of StableDiffusionPipeline and its equivalents: a prompt.

    As in diffusers' pipelines, a row with a ControlNet has the size of its control image unless it gives another one.
    """

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        control = next(iter(controls_of(request)), None)
        return super().size(request, info) if control is None else own_size(request, info, picture=control.image)
