"""A row's settings for ControlNets (Zhang et al. 2023): the nets, their images, strengths and calls.

Imports no torch, because a plan counts the nets' calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.adapters.control_fields import CONTROL_FIELDS
from sdbatch.diffusion.adapters.net_settings import for_each, pairing_refusal, several
from sdbatch.diffusion.pictures.picture import Picture

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = [
    "Control",
    "control_calls",
    "control_refusal",
    "controls_of",
    "is_on",
    "mode_refusal",
    "runs_of",
]

FIELDS = {field.name: field for field in CONTROL_FIELDS}
NUMBERS = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")


@dataclass(frozen=True)
class Control:
    """One ControlNet of a row.

    Attributes:
        net: its name in `controlnet`.
        image: the control image.
        scale: the factor of its residuals.
        start, end: it runs between these shares of the row's calls, 0 to 1.
        mode: what its image is, for a ControlNet Union; None for a plain net.
        guess_mode: whether it does not run for the unconditional lane.
    """

    net: str
    image: Picture
    scale: float
    start: float
    end: float
    mode: int | None
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
    each = zip(*(_for_each(request, name, len(nets)) for name in NUMBERS), strict=True)
    modes = _for_each(request, "control_mode", len(nets))
    guess_mode = bool(request.extra.get("guess_mode"))
    return tuple(
        Control(net, image, *map(float, numbers), mode, guess_mode)
        for net, image, numbers, mode in zip(nets, images, each, modes, strict=True)
    )


def runs_of(controls: Sequence[Control]) -> list[list[int]]:
    """The positions of the control images that a net takes in one run: all images of a ControlNet Union."""
    runs: dict[object, list[int]] = {}
    for i, control in enumerate(controls):
        runs.setdefault(i if control.mode is None else control.net, []).append(i)
    return list(runs.values())


def is_on(controls: Sequence[Control], call: int, calls: int) -> bool:
    """Whether the net of one run runs at this call.

    As in diffusers, a ControlNet Union with several images runs at every call, with those that are on.
    """
    return len(controls) > 1 or controls[0].is_on(call, calls)


def control_refusal(request: Request) -> str | None:
    """The reason why no model can run the row's ControlNets, or None."""
    nets = several(request.extra.get("controlnet"))
    if not nets:
        given = next((name for name in FIELDS if _is_given(request, name)), None)
        return f"{given} without a controlnet" if given else None
    if reason := pairing_refusal(request, "controlnet", "control_image", (*NUMBERS, "control_mode")):
        return reason
    if request.extra.get("guess_mode") and several(request.extra.get("control_mode")):
        return "guess_mode does not work with a ControlNet Union (control_mode)"
    for start, end in zip(*(_for_each(request, name, len(nets)) for name in NUMBERS[1:]), strict=True):
        if not 0 <= start < end <= 1:
            return (
                f"control_guidance_start must be less than control_guidance_end, both from 0 to 1, not {start}, {end}"
            )
    return None


def mode_refusal(request: Request, modes: Mapping[str, int]) -> str | None:
    """The reason why the row's `control_mode` does not go with its nets, or None.

    Args:
        modes: the number of modes of a ControlNet Union by its name, 0 for a plain net. Other nets are not checked.
    """
    controls = controls_of(request)
    unions = [control.net for control in controls if modes.get(control.net)]
    plain = [control.net for control in controls if modes.get(control.net) == 0]
    if unions and plain:
        return f"{unions[0]} is a ControlNet Union and {plain[0]} is not; as in diffusers, a row has nets of one kind"
    for control in controls:
        count = modes.get(control.net)
        if count is None:
            continue
        if not count and control.mode is not None:
            return f"control_mode: {control.net} is a plain ControlNet; only a ControlNet Union has modes"
        if count and control.mode is None:
            return f"{control.net} is a ControlNet Union: control_mode must say what its image is, 0 to {count - 1}"
        if count and control.mode >= count:
            return f"control_mode {control.mode}: the modes of {control.net} are 0 to {count - 1}"
    return None


def control_calls(request: Request, calls: int, paired_calls: int) -> int:
    """A row's calls of ControlNets, times the lanes of each.

    Args:
        calls: the number of the denoiser's calls.
        paired_calls: the number of first calls in which the row has an unconditional lane.
    """
    controls = controls_of(request)
    runs = [[controls[i] for i in run] for run in runs_of(controls)]
    return sum(
        1 + (call < paired_calls and not run[0].guess_mode)
        for run in runs
        for call in range(calls)
        if is_on(run, call, calls)
    )


def _for_each(request: Request, name: str, count: int) -> tuple[Any, ...]:
    return for_each(request, FIELDS[name], count)


def _is_given(request: Request, name: str) -> bool:
    value = request.extra.get(name)
    return value is not None and several(value) not in ((), (FIELDS[name].fallback,))
