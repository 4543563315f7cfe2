"""Entries of `--scheduler-config`: changes of a checkpoint's own scheduler configuration."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import diffusers

from sdbatch.diffusion.checkpoints.architectures import FLOW_SCHEDULER, SCHEDULER
from sdbatch.diffusion.checkpoints.configs import Kind, boolean, number, text
from sdbatch.diffusion.samplers.catalogue import EVERY_SAMPLER
from sdbatch.diffusion.samplers.schedulers import FIXED
from sdbatch.errors import ModelError

__all__ = ["merged", "misfit", "shown_entries", "typed_entries"]

NEAREST = 3
# Two names of one setting: FlowMatchEuler's, and that of the solvers.
SHIFTS = ("shift", "flow_shift")
ONLY_FLOW = FLOW_SCHEDULER.keys() - SCHEDULER.keys()
# Entries that matter only if the shift depends on the picture's size, and only if it does not.
DYNAMIC = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
# Entries about limiting samples, which is not linear, so that no sampler here does it.
CLIPPING = ("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")
WORDS = {"true": True, "false": False, "none": None, "null": None}


def typed_entries(
    given: Mapping[str, object],
    own: Mapping[str, object],
    samplers: Collection[str],
    kinds: Mapping[str, Kind],
    forced: Mapping[str, object],
) -> dict[str, object]:
    """The values of entries, converted to their types.

    Args:
        given: text, or values of the right type.
        own: the checkpoint's scheduler configuration.
        samplers: those of the model's family; an entry must be known to one of their schedulers.
        kinds: allowed values by name. Other entries have the type of their default in diffusers.
        forced: entries that the model's pipeline sets itself.

    Raises:
        ModelError: an entry is unknown, has another type, or would have no effect; the message names it.
    """
    known = _defaults(tuple(samplers))
    if "shift" not in kinds:
        known = {name: default for name, default in known.items() if name not in ONLY_FLOW}
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in (*CLIPPING, *FIXED):
            reason = "no sampler of sdbatch limits samples" if name in CLIPPING else "sdbatch always skips these steps"
            raise ModelError(f"{_option(name, value)}: {reason}; omit it")
        if name in forced:
            raise ModelError(f"{_option(name, value)}: the model's pipeline sets it itself; omit it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=NEAREST)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(sorted(known))}"
            raise ModelError(f"{_option(name, value)}: no scheduler of this model has this entry; {hint}")
        found[name] = _typed(name, value, kinds.get(name) or _kind_of(known[name]))
    _refuse_without_effect(found, {**own, **found})
    return found


def shown_entries(entries: Mapping[str, object]) -> str:
    """The option with these entries, for messages."""
    return " ".join(_option(name, value) for name, value in entries.items())


def merged(own: Mapping[str, object], entries: Mapping[str, object]) -> dict[str, object]:
    """A checkpoint's scheduler configuration with these entries."""
    shift = [entries[name] for name in SHIFTS if name in entries]
    return {**own, **entries, **(dict.fromkeys(SHIFTS, shift[0]) if shift else {})}


def misfit(sampler: str, entries: Mapping[str, object]) -> str | None:
    """The reason why a sampler cannot use these entries; None if it uses them all."""
    declared = EVERY_SAMPLER[sampler]
    own = declared.config
    if name := next((name for name in entries if name in own and own[name] != entries[name]), None):
        return f"sampler {sampler} has {name} {_shown(own[name])}; choose another sampler, or omit --scheduler-config"
    known = _parameters(declared.scheduler)
    if any(shift in known for shift in SHIFTS):
        known = {**known, **dict.fromkeys(SHIFTS)}
    if unused := next((name for name in entries if name not in known), None):
        return f"sampler {sampler} does not use {unused}, which --scheduler-config sets"
    return None


def _refuse_without_effect(found: Mapping[str, object], config: Mapping[str, object]) -> None:
    is_dynamic = config.get("use_dynamic_shifting")
    names = SHIFTS if is_dynamic else DYNAMIC
    if name := next((name for name in names if name in found), None):
        needed = "false" if is_dynamic else "true"
        raise ModelError(
            f"{_option(name, found[name])}: has an effect only if use_dynamic_shifting is {needed}; "
            f"add --scheduler-config use_dynamic_shifting={needed}, or omit it"
        )
    if len({found[name] for name in SHIFTS if name in found}) > 1:
        raise ModelError("--scheduler-config: shift and flow_shift are two names of one entry, with different values")


def _typed(name: str, value: object, kind: Kind) -> object:
    for candidate in (*(_readings(value) if isinstance(value, str) else ()), value):
        if kind.accepts(candidate):
            return candidate
    raise ModelError(f"{_option(name, value)}: expected {kind.description}")


def _readings(value: str) -> list[object]:
    """The value as a number, true, false or null; also as Python writes these words."""
    if value.lower() in WORDS:
        return [WORDS[value.lower()]]
    try:
        return [json.loads(value)]
    except (ValueError, RecursionError):
        return []


def _kind_of(default: object) -> Kind:
    if isinstance(default, bool):
        return boolean()
    if isinstance(default, int | float):
        return number()
    return text() if isinstance(default, str) else Kind("a number, true, false or text", _is_plain)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or number().accepts(value)


@lru_cache
def _defaults(samplers: tuple[str, ...]) -> dict[str, object]:
    """The entries of the samplers' schedulers, with the default that one of them has."""
    known: dict[str, object] = {}
    for sampler in samplers:
        for name, default in _parameters(EVERY_SAMPLER[sampler].scheduler).items():
            if known.get(name) is None:
                known[name] = default
    return known


@lru_cache
def _parameters(scheduler: str) -> Mapping[str, object]:
    """The entries of a scheduler's configuration, with their defaults."""
    parameters = inspect.signature(getattr(diffusers, scheduler).__init__).parameters
    kept = (p for p in parameters.values() if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD)
    return {p.name: p.default for p in kept}


def _option(name: str, value: object) -> str:
    return f"--scheduler-config {name}={_shown(value)}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
