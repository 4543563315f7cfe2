"""A row's settings for ControlNets (Zhang et al. 2023): the nets, their images, strengths and calls.

Names and defaults are those of diffusers' ControlNet pipelines. Imports no torch, because a plan counts the nets'
calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.adapters.net_settings import for_each, pairing_refusal, several
from sdbatch.diffusion.pictures.picture import Picture

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = [
    "CONTROL_DEFAULTS",
    "Control",
    "control_calls",
    "control_refusal",
    "controls_of",
]

CONTROL_DEFAULTS: Mapping[str, Any] = {
    "controlnet_conditioning_scale": 1.0,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
    "guess_mode": False,
}
EACH = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")


@dataclass(frozen=True)
class Control:
    """One ControlNet of a row.

    Attributes:
        net: its name in `controlnet`.
        image: the control image.
        scale: the factor of its residuals.
        start, end: it runs between these shares of the row's calls, 0 to 1.
        guess_mode: whether it does not run for the unconditional lane.
    """

    net: str
    image: Picture
    scale: float
    start: float
    end: float
    guess_mode: bool

    def is_on(self, call: int, calls: int) -> bool:
        """Whether it runs at this call. As in diffusers' pipelines, the whole call must lie between start and end."""
        return not (call / calls < self.start or (call + 1) / calls > self.end)


def controls_of(request: Request) -> tuple[Control, ...]:
    """The row's ControlNets in order. The request must have passed `control_refusal`."""
    nets = several(request.extra.get("controlnet"))
    if not nets:
        return ()
    images = several(request.extra.get("control_image"))
    each = zip(*(_for_each(request, name, len(nets)) for name in EACH), strict=True)
    guess_mode = bool(request.extra.get("guess_mode"))
    return tuple(
        Control(net, image, *map(float, values), guess_mode)
        for net, image, values in zip(nets, images, each, strict=True)
    )


def control_refusal(request: Request) -> str | None:
    """The reason why no model can run the row's ControlNets, or None."""
    nets = several(request.extra.get("controlnet"))
    if not nets:
        given = next((name for name in ("control_image", *CONTROL_DEFAULTS) if _is_given(request, name)), None)
        return f"{given} without a controlnet" if given else None
    if reason := pairing_refusal(request, "controlnet", "control_image", EACH):
        return reason
    for start, end in zip(*(_for_each(request, name, len(nets)) for name in EACH[1:]), strict=True):
        if not 0 <= start < end <= 1:
            return (
                f"control_guidance_start must be less than control_guidance_end, both from 0 to 1, not {start}, {end}"
            )
    return None


def control_calls(request: Request, calls: int, paired_calls: int) -> int:
    """A row's calls of ControlNets, times the lanes of each.

    Args:
        calls: the number of the denoiser's calls.
        paired_calls: the number of first calls in which the row has an unconditional lane.
    """
    return sum(
        1 + (call < paired_calls and not control.guess_mode)
        for control in controls_of(request)
        for call in range(calls)
        if control.is_on(call, calls)
    )


def _for_each(request: Request, name: str, count: int) -> tuple[float, ...]:
    return for_each(request, name, CONTROL_DEFAULTS[name], count)


def _is_given(request: Request, name: str) -> bool:
    value = request.extra.get(name)
    return value is not None and several(value) not in ((), (CONTROL_DEFAULTS.get(name),))
