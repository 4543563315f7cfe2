"""Text to image: a row starts from noise alone."""

from __future__ import annotations

from sdbatch.diffusion.adapters.control_rows import controls_of
from sdbatch.diffusion.adapters.t2i_adapter_rows import adapter_images_of
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.sizes import own_size
from sdbatch.diffusion.tasks.task import Task

__all__ = ["TextToImage"]


class TextToImage(Task):
    """The task of StableDiffusionPipeline and its equivalents: a prompt.

    As in diffusers' pipelines, a row with a ControlNet or T2I-Adapter has the size of its control image unless it
    gives another one.
    """

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        controls, adapters = controls_of(request), adapter_images_of(request)
        if not controls and not adapters:
            return super().size(request, info)
        multiple = info.adapter_multiple if adapters else info.vae_scale
        images = [net.image for net in controls] + [net.image for net in adapters]
        return own_size(request, info, picture=images[0], multiple=multiple)
