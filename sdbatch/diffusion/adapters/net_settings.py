"""What the settings of all networks that rows name have in common. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.bounds import Number
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.fields import Field
from sdbatch.kinds import Several

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = [
    "MAX_NETS",
    "ShownNet",
    "adapter_field",
    "for_each",
    "joined",
    "pairing_refusal",
    "several",
    "shown_nets",
    "strength_field",
]

ADAPTERS = "adapters"
STRENGTHS = Several(Number(-1_000_000, 1_000_000))
MAX_NETS = 4
"""The maximum of networks of a kind in one row. An engine keeps at least as many in memory."""


def joined(values: Sequence[Any]) -> str:
    """A list as it is written into the parameters of an image file."""
    return "; ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def adapter_field(
    name: str, kind: Any, help: str, metavar: str, parameter: str | None = None, beside: str = "", **rest: Any
) -> Field:
    """A setting of rows with networks.

    Args:
        beside: the setting that names the networks, unless it is this one.
    """
    return Field(
        name=name,
        kind=kind,
        help=help,
        group=ADAPTERS,
        metavar=metavar,
        parameter=parameter,
        shown=joined if isinstance(kind, Several) else None,
        before=None,
        only_if_used=True,
        beside=beside,
        **rest,
    )


def strength_field(name: str, of: str, parameter: str, beside: str) -> Field:
    """The setting of the strength of networks; `of` says of which in the help."""
    text = f"strength of {of}, one number for all or one for each"
    return adapter_field(name, STRENGTHS, text, "F", parameter, beside, fallback=1.0)


def several(value: Any) -> tuple[Any, ...]:
    """The values of a list; a single value counts as a list of one."""
    if value is None:
        return ()
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return tuple(value) if is_list else (value,)


def for_each(request: Request, field: Field, count: int) -> tuple[Any, ...]:
    """The values of a setting for each of `count` networks; a single value applies to all."""
    values = several(request.extra.get(field.name)) or (field.fallback,)
    return values * count if len(values) == 1 else values


@dataclass(frozen=True)
class ShownNet:
    """One network of a row that is shown a picture: its name, the picture, and its strength."""

    adapter: str
    image: Picture
    scale: float


def shown_nets(request: Request, named: str, shown: str, scale: Field) -> tuple[ShownNet, ...]:
    """The row's networks of a kind, in order. The request must have passed `pairing_refusal`.

    Args:
        named, shown, scale: the settings with their names, their pictures and their strengths.
    """
    names, images = (several(request.extra.get(setting)) for setting in (named, shown))
    if not names:
        return ()
    scales = for_each(request, scale, len(names))
    return tuple(ShownNet(n, image, float(s)) for n, image, s in zip(names, images, scales, strict=True))


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


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
