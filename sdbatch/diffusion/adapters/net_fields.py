"""The settings of all networks that rows of Stable Diffusion can name, and why a row's can't be used. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sdbatch.diffusion.adapters.control_fields import CONTROL_FIELDS
from sdbatch.diffusion.adapters.control_rows import control_refusal
from sdbatch.diffusion.adapters.ip_adapter_rows import IP_ADAPTER_FIELDS, ip_adapter_refusal
from sdbatch.diffusion.adapters.net_settings import several
from sdbatch.diffusion.adapters.t2i_adapter_rows import T2I_ADAPTER_FIELDS, t2i_adapter_refusal

if TYPE_CHECKING:
    from sdbatch.diffusion.request import Request

__all__ = ["NET_FIELDS", "WITHOUT_DEEP_CACHE", "net_refusal", "nets_named"]

NET_FIELDS = (*CONTROL_FIELDS, *IP_ADAPTER_FIELDS, *T2I_ADAPTER_FIELDS)
"""In the order of the metadata's columns."""
REFUSALS: Mapping[str, Callable[[Request], str | None]] = {
    "controlnet": control_refusal,
    "ip_adapter": ip_adapter_refusal,
    "t2i_adapter": t2i_adapter_refusal,
}
WITHOUT_DEEP_CACHE = ("controlnet", "t2i_adapter")
"""Settings of networks that add to layers which DeepCache skips."""


def nets_named(request: Request, settings: Sequence[str] = tuple(REFUSALS)) -> list[str]:
    """The settings, of these, by which a row names networks."""
    return [setting for setting in settings if several(request.extra.get(setting))]


def net_refusal(request: Request, task: str, tasks: Sequence[str]) -> str | None:
    """The reason why no model can run the row's networks, or None.

    Args:
        task: the row's task.
        tasks: those in which networks work.
    """
    for refusal in REFUSALS.values():
        if reason := refusal(request):
            return reason
    named = nets_named(request)
    if named and task not in tasks:
        an = "an" if named[0][0] in "aeiou" else "a"
        return f"{task} does not work with {an} {named[0]}; {', '.join(tasks[:-1])} and {tasks[-1]} do"
    return None
