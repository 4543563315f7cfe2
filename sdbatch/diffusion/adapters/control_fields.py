"""The settings of ControlNets as columns and options. Their defaults are `CONTROL_DEFAULTS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdbatch.bounds import Number
from sdbatch.fields import Field
from sdbatch.kinds import Flag, Pictures, Several, Text

__all__ = ["ADAPTERS", "CONTROL_FIELDS", "adapter_field", "joined"]

ADAPTERS = "adapters"
OF_CONTROLNETS = ("control_image", "control_guidance_start", "control_guidance_end", "guess_mode")
SHARE = Several(Number(0, 1))


def joined(values: Sequence[Any]) -> str:
    """A list as it is written into the parameters of an image file."""
    return "; ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def adapter_field(name: str, kind: Any, help: str, metavar: str, parameter: str | None = None, **rest: Any) -> Field:
    """A setting that only rows with a network have; the first field of each network's settings names the network."""
    beside = next((first for first in ("controlnet", "ip_adapter") if _belongs(name, first)), "")
    return Field(
        name=name,
        kind=kind,
        help=help,
        group=ADAPTERS,
        metavar=metavar,
        parameter=parameter,
        shown=None if isinstance(kind, Flag) else joined,
        before=None,
        only_if_used=True,
        beside=beside,
        **rest,
    )


def _belongs(name: str, first: str) -> bool:
    return name != first and (name.startswith(f"{first}_") or (first == "controlnet" and name in OF_CONTROLNETS))


CONTROL_FIELDS = (
    adapter_field(
        "controlnet",
        Several(Text(), networks=True),
        "the ControlNet of rows that name none: a folder in diffusers' format, local or s3://…, or a hub id; "
        "separate several with `;`",
        "NAME",
        "ControlNet",
        null_text="the run's; without one, none",
    ),
    adapter_field(
        "control_image",
        Pictures(),
        "the control image (edges, depth, a pose, …), one for each ControlNet",
        "PATH",
    ),
    adapter_field(
        "controlnet_conditioning_scale",
        Several(Number(-1_000_000, 1_000_000)),
        "strength of the ControlNet, one number for all or one for each; default 1",
        "F",
        "ControlNet weight",
    ),
    adapter_field(
        "control_guidance_start",
        SHARE,
        "the ControlNet starts at this share of the calls, 0 to 1",
        "F",
        "ControlNet start",
    ),
    adapter_field(
        "control_guidance_end",
        SHARE,
        "the ControlNet stops at this share of the calls; default 1",
        "F",
        "ControlNet end",
    ),
    adapter_field(
        "guess_mode",
        Flag(),
        "guess mode: follow the control image without relying on the prompt; no net runs for the negative prompt",
        "true|false",
        "ControlNet guess mode",
    ),
)
"""In the order of the metadata's columns."""
