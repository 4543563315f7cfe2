"""A row with its sampling state, made from a valid request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdbatch.diffusion.adapters.row_nets import NOTHING, Prepared
from sdbatch.diffusion.adapters.t2i_adapter_rows import adapter_size_refusal
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.guidance import paired_calls
from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.coefficients import Coefficients
from sdbatch.diffusion.tasks import Task, Unusable, task_of
from sdbatch.diffusion.validation import check_area
from sdbatch.errors import AdapterError, PictureError

__all__ = ["SamplingRow", "sampling_row"]


@dataclass(eq=False, kw_only=True)
class SamplingRow(Row):
    """A row with its sampling state.

    Attributes:
        task: its task.
        guidance_scales: the guidance scale of each call; 1 for calls without guidance.
        generator: draws the initial latents and every call's noise; created when the row is admitted.
        keeps: whether parts of a picture are restored after each call.
        image_guidance: the guidance scale from its third lane to its second.
        prepared: what its networks add; created when the row is admitted.
        lora_rank: the rank of its LoRAs' slot; 0 if it needs none.
        unusable: whether its pictures turn out to be unusable; known when the row is admitted.
    """

    request: Request
    task: Task
    coefficients: Coefficients
    guidance_scales: Sequence[float]
    prompt_tokens: int
    prompt_truncated: bool
    generator: torch.Generator | None = None
    keeps: bool = False
    image_guidance: float = 1.0
    prepared: Prepared = NOTHING
    lora_rank: int = 0
    unusable: Unusable | None = None

    def why_not_finite(self) -> str | None:
        """The reason in the row itself why its result is not finite; None if there is none. Waits for the device."""
        return self.unusable.reason if self.unusable is not None and self.unusable.answer.item() else None


def sampling_row(family: Family, index: int, request: Request) -> SamplingRow:
    """Turn a valid request into a row that can wait for lanes.

    Raises:
        SamplerError: the model does not support its sampler with these steps.
        PictureError: its picture can't be read, or is too large.
        PromptError: its prompt can't be read in its syntax.
        AdapterError: a LoRA can't be read, or does not fit the model; or the row names a network that this engine
            can't run.
    """
    info, task = family.info, task_of(request)
    if family.nets is not None and (reason := family.nets.refusal(request)):
        raise AdapterError(reason)
    size = task.size(request, info)
    if reason := check_area(*size, info) or adapter_size_refusal(request, size, info):
        raise PictureError(reason)
    coefficients = family.coefficients(request)
    scales = family.scales(request, coefficients.calls)
    tokens, is_truncated = family.prompt_tokens(request)
    return SamplingRow(
        index=index,
        shape=family.latent_shape(*size)[1:],
        key=family.lane_key(request),
        calls=coefficients.calls,
        paired_calls=paired_calls(scales),
        branches=task.branches,
        image_guidance=task.image_guidance(request, info),
        request=request,
        task=task,
        coefficients=coefficients,
        guidance_scales=scales,
        prompt_tokens=tokens,
        prompt_truncated=is_truncated,
        lora_rank=family.lora_rank(request),
    )
