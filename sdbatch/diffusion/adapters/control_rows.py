"""What a row says of ControlNets (Zhang et al. 2023): which, by which pictures, how strongly, at which calls.

Names and defaults are those of diffusers' ControlNet pipelines. Imports no torch: a plan counts the nets' calls.
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
    "MOST_NETS",
    "Control",
    "control_calls",
    "control_refusal",
    "controls_of",
    "for_each",
    "pairing_refusal",
    "several",
]

MOST_NETS = 4
"""ControlNets of one row, and those that an engine holds at a time."""
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
        net: what `controlnet` calls it.
        image: the control image.
        scale: that its residuals are multiplied by.
        start, end: the share of the row's calls within which it runs.
        guess_mode: whether it runs without the unconditional lane.
    """

    net: str
    image: Picture
    scale: float
    start: float
    end: float
    guess_mode: bool

    def is_on(self, call: int, calls: int) -> bool:
        """Whether it runs at this call, as diffusers' pipelines reckon: the whole call lies within its share."""
        return not (call / calls < self.start or (call + 1) / calls > self.end)


def several(value: Any) -> tuple[Any, ...]:
    """One value, or the values of a list."""
    if value is None:
        return ()
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return tuple(value) if is_list else (value,)


def controls_of(request: Request) -> tuple[Control, ...]:
    """The row's ControlNets in order. The request must be one that `control_refusal` finds nothing wrong with."""
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
    """Why the row's ControlNets can't be run, whatever the model; None if they can."""
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
    """Why what a row names does not go with its pictures and numbers; None if it does.

    Args:
        named: the setting that names one or more networks.
        shown: the setting with a picture for each.
        each: settings with one number for all, or one for each.
    """
    names, pictures = (several(request.extra.get(name)) for name in (named, shown))
    if not all(isinstance(name, str) and name for name in names):
        return f"{named} must be a name or a list of names, not {request.extra[named]!r}"
    if len(names) > MOST_NETS:
        return f"{_count(len(names), named)}; at most {MOST_NETS}"
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
    """The values of a setting that has one for all or one for each of `count` networks."""
    values = several(request.extra.get(name)) or (default,)
    return values * count if len(values) == 1 else values


def control_calls(request: Request, calls: int, paired_calls: int) -> int:
    """Calls of ControlNets that a row makes, times the lanes that each takes.

    Args:
        calls: of the denoiser.
        paired_calls: for how many of them, from the first on, the row has an unconditional lane.
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
