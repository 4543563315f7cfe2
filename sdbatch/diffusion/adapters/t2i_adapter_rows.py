"""A row's settings for T2I-Adapters (Mou et al. 2023): the adapters, their images, strengths and calls.

Defaults are those of diffusers' pipelines, whose `adapter` and `image` are here `t2i_adapter` and `adapter_image`.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sdbatch.bounds import Number
from sdbatch.diffusion.adapters.net_settings import (
    ShownNet,
    adapter_field,
    pairing_refusal,
    several,
    shown_nets,
    strength_field,
)
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.kinds import Pictures, Several, Text

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = [
    "ADAPTER_FACTOR",
    "T2I_ADAPTER_FIELDS",
    "adapter_images_of",
    "adapter_size_refusal",
    "calls_by_factor",
    "t2i_adapter_refusal",
]

SCALE = strength_field("adapter_conditioning_scale", "the T2I-Adapter", "T2I-Adapter weight", beside="t2i_adapter")
T2I_ADAPTER_FIELDS = (
    adapter_field(
        "t2i_adapter",
        Several(Text(), networks=True),
        "the T2I-Adapter of rows that name none: a folder in diffusers' format, local or s3://…, or a hub id; "
        "separate several with `;`",
        "NAME",
        "T2I-Adapter",
        null_text="the run's; without one, none",
    ),
    adapter_field(
        "adapter_image",
        Pictures(),
        "the control image (a sketch, depth, colours, …), one for each T2I-Adapter",
        "PATH",
        beside="t2i_adapter",
    ),
    SCALE,
)
"""In the order of the metadata's columns."""
ADAPTER_FACTOR = adapter_field(
    "adapter_conditioning_factor",
    Number(0, 1),
    "T2I-Adapters apply to this share of the calls, from the first on; 0 to 1",
    "F",
    "T2I-Adapter factor",
    fallback=1.0,
    beside="t2i_adapter",
)
"""Of Stable Diffusion XL only, as in diffusers."""


def adapter_images_of(request: Request) -> tuple[ShownNet, ...]:
    """The row's T2I-Adapters in order. The request must have passed `t2i_adapter_refusal`."""
    return shown_nets(request, "t2i_adapter", "adapter_image", SCALE)


def calls_by_factor(request: Request, steps: int) -> int:
    """The number of first calls with T2I-Adapters in diffusers' pipeline of Stable Diffusion XL.

    It compares calls with a share of the steps, so samplers with two calls per step have them in the first half at
    most.
    """
    factor = request.extra.get(ADAPTER_FACTOR.name)
    return int(steps * (ADAPTER_FACTOR.fallback if factor is None else factor))


def t2i_adapter_refusal(request: Request) -> str | None:
    """The reason why no model can run the row's T2I-Adapters, or None."""
    if not several(request.extra.get("t2i_adapter")):
        return "adapter_image without a t2i_adapter" if several(request.extra.get("adapter_image")) else None
    factor = request.extra.get(ADAPTER_FACTOR.name)
    if factor is not None and not 0 <= factor <= 1:
        return f"{ADAPTER_FACTOR.name} must be from 0 to 1, not {factor}"
    return pairing_refusal(request, "t2i_adapter", "adapter_image", (SCALE.name,))


def adapter_size_refusal(request: Request, sides: Iterable[int | None], info: ModelInfo) -> str | None:
    """The reason why T2I-Adapters do not work in a picture with these sides in pixels, or None."""
    multiple = info.adapter_multiple
    odd = next((side for side in sides if side and side % multiple), None)
    if odd is None or not several(request.extra.get("t2i_adapter")):
        return None
    return f"with a t2i_adapter, height and width must be multiples of {multiple}, not {odd}"
