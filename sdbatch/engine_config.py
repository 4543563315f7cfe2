"""How every engine of one OUT is set up: resolved once, kept in run.json, imposed ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbatch.errors import UsageError
from sdbatch.settings import RunSettings

__all__ = ["resolve_engine"]

LANES_ON_CPU = 16


def resolve_engine(settings: RunSettings, recorded: Mapping[str, Any], *, has_gpus: bool) -> dict[str, Any]:
    """The `Engine` arguments device, dtype, lanes and compile; lanes None means: measure, then record.

    Raises:
        UsageError: a setting that differs from what OUT was begun with; pictures of both would not be the same.
    """
    device = _chosen("device", settings.device, recorded, "cuda" if has_gpus else "cpu")
    on_cpu = device == "cpu"
    return {
        "device": device,
        "dtype": _chosen("dtype", settings.dtype, recorded, "fp32" if on_cpu else "fp16"),
        "lanes": _chosen("lanes", settings.lanes, recorded, LANES_ON_CPU if on_cpu else None),
        "compile": _chosen("compile", settings.compile, recorded, "off" if on_cpu else "on"),
    }


def _chosen(name: str, asked: Any, recorded: Mapping[str, Any], default: Any) -> Any:
    before = recorded.get(name)
    if asked in ("auto", None):
        return default if before is None else before
    if before is not None and asked != before:
        raise UsageError(
            f"OUT was begun with --{name} {before}, this run asks for {asked}, which would round differently; "
            f"leave --{name} out, use another OUT, or --overwrite to start this one anew"
        )
    return asked
