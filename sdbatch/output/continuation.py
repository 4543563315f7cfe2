"""Decides whether a run may continue an OUT: it must make the same pictures of the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.errors import InputError, UsageError
from sdbatch.output.manifest import RunRecord, append_starts
from sdbatch.prompts.partitions import partition_folders

__all__ = ["continued"]

# Where a model was found; `model_source.check_recorded` compares its content.
MODEL_LOCATION_KEYS = {
    *("source", "revision", "commit", "variant", "tokenizer", "vae", "text_encoders", "embeddings"),
    *("identity", "files", "part_commits"),
}
HINT = "use another OUT, or --overwrite to replace this one"


def continued(earlier: RunRecord, new: RunRecord) -> RunRecord:
    """The earlier record, with the additional inputs of `new` numbered after its own.

    Raises:
        UsageError: `new` would make different pictures; the message names the setting.
        InputError: an input file was changed or removed, or the table has other columns.
    """
    for ours, theirs, what in ((earlier.settings, new.settings, "--"), (earlier.model, new.model, "model ")):
        names = (set(ours) | set(theirs)) - MODEL_LOCATION_KEYS
        for name in sorted(names, key=lambda name: (name != "task", name)):  # others follow from the task
            if ours.get(name) != theirs.get(name):
                option = f"{what}{name.replace('_', '-')}"
                before, now = ours.get(name), theirs.get(name)
                raise UsageError(f"OUT was started with {option} {before!r}, this run has {now!r}; {HINT}")
    if earlier.shard_rows != new.shard_rows:
        raise UsageError(
            f"OUT was started with {earlier.shard_rows} rows per shard, this run has {new.shard_rows}; {HINT}"
        )
    _check_columns(earlier, new)
    _check_networks(earlier, new)
    inputs = _inputs_now(earlier.inputs, new.inputs)
    starts = earlier.starts + append_starts(len(earlier.inputs), len(inputs) - len(earlier.inputs))
    known = {network["name"] for network in earlier.networks}
    networks = [*earlier.networks, *(network for network in new.networks if network["name"] not in known)]
    return dataclasses.replace(earlier, inputs=inputs, starts=starts, networks=networks)


def _check_networks(earlier: RunRecord, new: RunRecord) -> None:
    before = {network["name"]: _content(network) for network in earlier.networks}
    for network in new.networks:
        if before.get(name := network["name"], _content(network)) != _content(network):
            raise UsageError(f"{name!r} has changed since OUT was started: its content differs; {HINT}")


def _check_columns(earlier: RunRecord, new: RunRecord) -> None:
    if earlier.columns is not None and dict(earlier.columns) != dict(new.columns or {}):
        raise InputError(
            f"OUT was started with the columns {_mapping(earlier.columns)}; "
            f"this table has {_mapping(new.columns or {})}; choose them with --column, {HINT}"
        )
    if earlier.schema is not None and list(earlier.schema) != list(new.schema or ()):
        raise InputError(
            f"OUT was started with {_fields(earlier.schema)}; this table has {_fields(new.schema or ())}; {HINT}"
        )
    if None not in (earlier.columns, earlier.fields) and list(earlier.fields or ()) != list(new.fields or ()):
        settings, now = (", ".join(f"{f['name']} ({f['type']})" for f in r.fields or ()) for r in (earlier, new))
        raise UsageError(f"the metadata of OUT has the settings {settings}; this run would write {now}; {HINT}")


def _inputs_now(earlier: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The known inputs in their order, at their current paths, then the new ones."""
    current = {entry["path"]: entry for entry in inputs}
    in_place = [current.pop(known["path"], None) for known in earlier]
    kept: list[Mapping[str, Any]] = []
    alike: dict[tuple[Any, ...], list[str]] = {}
    for path, other in current.items():
        alike.setdefault(_traits(other), []).append(path)
    for known, found in zip(earlier, in_place, strict=True):
        entry = found or _moved(known, alike, current)
        if entry is None:
            raise InputError(f"{known['path']} was an input of OUT and is no longer among the prompts; {HINT}")
        for name in ("rows", "size", "stamp", "encoding"):
            if name in known and entry.get(name) != known[name]:
                change = f"{name} {known[name]} → {entry.get(name)}"
                raise InputError(f"{known['path']} changed since OUT was started ({change}); {HINT}")
        kept.append(entry)
    return [*kept, *current.values()]


def _content(network: Mapping[str, str]) -> tuple[str, str]:
    return network.get("sha256", ""), network.get("stamp", "")


def _moved(
    known: Mapping[str, Any], alike: Mapping[tuple[Any, ...], list[str]], current: dict[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Take the file of `current` that is a known input at another path: otherwise equal, partitions included.

    Args:
        alike: paths by their other properties.
    """
    if not known["stamp"]:  # a prompt instead of a path
        return None
    same = [path for path in alike.get(_traits(known), ()) if path in current]
    return current.pop(same[0]) if len(same) == 1 else None


def _traits(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    path = entry["path"]
    name = "/".join([*partition_folders(path), path.rpartition("/")[2]])  # including the columns in its path
    return name, entry["size"], entry["rows"], entry["stamp"]


def _mapping(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{setting}={column}" for setting, column in columns.items())


def _fields(schema: Sequence[Mapping[str, str]]) -> str:
    if not schema:
        return "no further columns"
    return "the further columns " + ", ".join(f"{field['name']} ({field['type']})" for field in schema)
