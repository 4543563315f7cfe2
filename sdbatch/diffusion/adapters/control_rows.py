"""A row's settings for ControlNets (Zhang et al. 2023): the nets, their images, strengths and calls.

Names and defaults are those of diffusers' ControlNet pipelines. Imports no torch, because a plan counts the nets'
calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.pictures.picture import Picture

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = [
    "CONTROL_DEFAULTS",
    "MAX_NETS",
    "Control",
    "control_calls",
    "control_refusal",
    "controls_of",
    "for_each",
    "pairing_refusal",
    "several",
]

MAX_NETS = 4
"""The maximum of ControlNets in one row, and in an engine's memory."""
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


def several(value: Any) -> tuple[Any, ...]:
    """The values of a list; a single value counts as a list of one."""
    if value is None:
        return ()
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return tuple(value) if is_list else (value,)


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


def pairing_refusal(request: Request, named: str, shown: str, each: Sequence[str]) -> str | None:
    """The reason why a row's networks do not match its pictures and numbers, or None.

    Args:
        named: the setting that names one or more networks.
        shown: the setting with one picture for each network.
        each: the settings with one number for all networks, or one for each.
    """
    names, pictures = (several(request.extra.get(name)) for name in (named, shown))
    if not all(isinstance(name, str) and name for name in names):
        return f"{named} must be a name or a list of names, not {request.extra[named]!r}"
    if len(names) > MAX_NETS:
        return f"{_count(len(names), named)}; at most {MAX_NETS}"
    if len(pictures) != len(names):
        return f"{_count(len(names), named)} and {_count(len(pictures), shown)}: one is needed for each"
    if not all(isinstance(picture, Picture) for picture in pictures):
        return f"{shown} must be a Picture or a list of them, not {request.extra[shown]!r}"
    for name in each:
        values = several(request.extra.get(name))
        if len(values) not in (0, 1, len(names)):
            return f"{name} has {len(values)} values for {_count(len(names), named)}"
    return None


def for_each(request: Request, name: str, default: Any, count: int) -> tuple[Any, ...]:
    """The values of a setting for each of `count` networks; a single value applies to all."""
    values = several(request.extra.get(name)) or (default,)
    return values * count if len(values) == 1 else values


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


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
