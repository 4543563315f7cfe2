"""A row's settings for IP-Adapters (Ye et al. 2023): the adapters, their pictures and scales.

Names and defaults are those of diffusers. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdbatch.bounds import Number
from sdbatch.diffusion.adapters.control_fields import adapter_field
from sdbatch.diffusion.adapters.control_rows import for_each, pairing_refusal, several
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.kinds import Pictures, Several, Text

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = ["IP_ADAPTER_FIELDS", "ImagePrompt", "image_prompts_of", "ip_adapter_refusal"]

DEFAULT_SCALE = 1.0
IP_ADAPTER_FIELDS = (
    adapter_field(
        "ip_adapter",
        Several(Text(), networks=True),
        "the IP-Adapter of rows that name none: a safetensors file, local, s3://… or org/name/path on the hub, with "
        "its image_encoder beside it; separate several with `;`",
        "FILE",
        "IP-Adapter",
        null_text="the run's; without one, none",
    ),
    adapter_field("ip_adapter_image", Pictures(), "the image prompt, one for each IP-Adapter", "PATH"),
    adapter_field(
        "ip_adapter_scale",
        Several(Number(-1_000_000, 1_000_000)),
        "strength of the image prompt, one number for all or one for each; default 1",
        "F",
        "IP-Adapter weight",
    ),
)
"""In the order of the metadata's columns."""


@dataclass(frozen=True)
class ImagePrompt:
    """One IP-Adapter of a row: its name in `ip_adapter`, its picture and its scale."""

    adapter: str
    image: Picture
    scale: float


def image_prompts_of(request: Request) -> tuple[ImagePrompt, ...]:
    """The row's IP-Adapters in order. The request must have passed `ip_adapter_refusal`."""
    adapters = several(request.extra.get("ip_adapter"))
    if not adapters:
        return ()
    images = several(request.extra.get("ip_adapter_image"))
    scales = for_each(request, "ip_adapter_scale", DEFAULT_SCALE, len(adapters))
    return tuple(ImagePrompt(a, i, float(s)) for a, i, s in zip(adapters, images, scales, strict=True))


def ip_adapter_refusal(request: Request) -> str | None:
    """The reason why no model can run the row's IP-Adapters, or None."""
    if not several(request.extra.get("ip_adapter")):
        return "ip_adapter_image without an ip_adapter" if several(request.extra.get("ip_adapter_image")) else None
    return pairing_refusal(request, "ip_adapter", "ip_adapter_image", ("ip_adapter_scale",))
