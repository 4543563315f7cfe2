"""A row's settings for IP-Adapters (Ye et al. 2023): the adapters, their pictures and scales.

Names and defaults are those of diffusers. Imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbatch.diffusion.adapters.net_settings import (
    ShownNet,
    adapter_field,
    pairing_refusal,
    several,
    shown_nets,
    strength_field,
)
from sdbatch.kinds import Pictures, Several, Text

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = ["IP_ADAPTER_FIELDS", "image_prompts_of", "ip_adapter_refusal"]

SCALE = strength_field("ip_adapter_scale", "the image prompt", "IP-Adapter weight", beside="ip_adapter")
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
    adapter_field(
        "ip_adapter_image", Pictures(), "the image prompt, one for each IP-Adapter", "PATH", beside="ip_adapter"
    ),
    SCALE,
)
"""In the order of the metadata's columns."""


def image_prompts_of(request: Request) -> tuple[ShownNet, ...]:
    """The row's IP-Adapters in order. The request must have passed `ip_adapter_refusal`."""
    return shown_nets(request, "ip_adapter", "ip_adapter_image", SCALE)


def ip_adapter_refusal(request: Request) -> str | None:
    """The reason why no model can run the row's IP-Adapters, or None."""
    if not several(request.extra.get("ip_adapter")):
        return "ip_adapter_image without an ip_adapter" if several(request.extra.get("ip_adapter_image")) else None
    return pairing_refusal(request, "ip_adapter", "ip_adapter_image", (SCALE.name,))
