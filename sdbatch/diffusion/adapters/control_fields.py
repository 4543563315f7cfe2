"""The settings of ControlNets, as tables and options know them. Their defaults are `CONTROL_DEFAULTS`."""

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
    """A list as the parameters of an image file have it."""
    return "; ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def adapter_field(name: str, kind: Any, help: str, metavar: str, parameter: str | None = None, **rest: Any) -> Field:
    """A setting that only rows with a network have; those of one network begin with the field that names it."""
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
        "several with `;` between them",
        "NAME",
        "ControlNet",
        null_text="the run's; without one, none",
    ),
    adapter_field(
        "control_image",
        Pictures(),
        "the picture that the ControlNet goes by (edges, depth, a pose, …), one for each",
        "PATH",
    ),
    adapter_field(
        "controlnet_conditioning_scale",
        Several(Number(-1_000_000, 1_000_000)),
        "how strongly the ControlNet steers, one number for all or one for each; default 1",
        "F",
        "ControlNet weight",
    ),
    adapter_field(
        "control_guidance_start",
        SHARE,
        "the ControlNet runs from this share of the calls on, 0 to 1",
        "F",
        "ControlNet start",
    ),
    adapter_field("control_guidance_end", SHARE, "and no longer than to this one; default 1", "F", "ControlNet end"),
    adapter_field(
        "guess_mode",
        Flag(),
        "the ControlNet goes by its picture alone, and runs without the negative prompt",
        "true|false",
        "ControlNet guess mode",
    ),
)
"""In the order of the metadata's columns."""
