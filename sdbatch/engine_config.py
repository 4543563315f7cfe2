"""How every engine of one OUT is set up: resolved once, kept in run.json, imposed ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbatch.errors import UsageError
from sdbatch.settings import RunSettings

__all__ = ["resolve_engine"]

LANES_ON_CPU = 16


def resolve_engine(settings: RunSettings, recorded: Mapping[str, Any], *, has_gpus: bool) -> dict[str, Any]:
    """The `Engine` arguments but for the model; lanes None means: measure, then record.

    Threads matter to rounding on a CPU alone: convolutions share out their sums over them.

    Raises:
        UsageError: a setting that differs from what OUT was begun with; pictures of both would not be the same.
    """
    device = _chosen("device", settings.device, recorded, "cuda" if has_gpus else "cpu")
    on_cpu = device == "cpu"
    return {
        "device": device,
        "dtype": _chosen("dtype", settings.dtype, recorded, "fp32" if on_cpu else "fp16"),
        "lanes": _chosen("lanes", settings.lanes, recorded, LANES_ON_CPU if on_cpu else None),
        "threads": _chosen("cpus-per-actor", _threads(settings), recorded, 1, key="threads") if on_cpu else None,
        "compile": _chosen("compile", settings.compile, recorded, "off" if on_cpu else "on"),
        "quantization": _chosen("quantization", settings.quantization, recorded, "none"),
        "deep_cache": _chosen("deep-cache", settings.deep_cache, recorded, 1),
    }


def _threads(settings: RunSettings) -> int | None:
    return None if settings.cpus_per_actor is None else max(1, int(settings.cpus_per_actor))


def _chosen(name: str, asked: Any, recorded: Mapping[str, Any], default: Any, key: str | None = None) -> Any:
    before = recorded.get(key or name.replace("-", "_"))
    if asked in ("auto", None):
        return default if before is None else before
    if before is not None and asked != before:
        raise UsageError(
            f"OUT was begun with --{name} {before}, this run asks for {asked}, which makes other pictures; "
            f"leave --{name} out, use another OUT, or --overwrite to start this one anew"
        )
    return asked
