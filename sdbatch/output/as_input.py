"""Reads an output as the table of another run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.errors import InputError, StorageError
from sdbatch.output.keys import finished_shards, is_marker, shard_name
from sdbatch.output.manifest_files import MAX_BYTES, NAME, OWN_NAMES, read_manifest
from sdbatch.output.markers import ShardStats, read_markers
from sdbatch.output.metadata import check_schema
from sdbatch.prompts import InputFile
from sdbatch.prompts.made_rows import FORMAT, made_schema
from sdbatch.prompts.single import is_prompt
from sdbatch.prompts.types import plain_schema
from sdbatch.storage.parquet import opened_parquet
from sdbatch.storage.store import GLOB_CHARACTERS, Store

__all__ = ["MadeTable", "made_table"]


@dataclass(frozen=True)
class MadeTable:
    """An output, read as a table.

    Attributes:
        files: its finished shards, one file each.
        notices: messages about skipped images and shards.
    """

    files: list[InputFile]
    notices: tuple[str, ...]


def made_table(prompts: str, options: Mapping[str, Any] | None = None, whole: Collection[str] = ()) -> MadeTable | None:
    """The images of the output in the folder `prompts`; None if it is not a folder with a manifest of sdbatch.

    Its rows have `image`, `prompt`, `negative_prompt` and `seed`, and everything else of its metadata with `input_`
    before the name. Failed images are left out.

    Args:
        whole: columns whose kept input pictures are read whole; for others only the path.

    Raises:
        InputError: it has no finished shard, or a damaged one; or it is a JSON file of an output.
        StorageError: the store cannot be read.
        UsageError: its manifest is damaged.
    """
    if not isinstance(prompts, str) or is_prompt(prompts) or any(c in prompts for c in GLOB_CHARACTERS):
        return None
    _refuse_own_file(prompts, options)
    store = Store(prompts, options)
    if not store.is_folder() or not _is_ours(store.read_if_there(NAME, MAX_BYTES)):
        return None
    record = read_manifest(store)
    markers = _markers(store, record.id, len(record.cut))
    if not markers:
        raise InputError(f"{store.url}: is an output without a finished shard")
    found = store.files_by_name()
    names = [f"{shard_name(stats.shard)}.parquet" for stats in markers]
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{store.name(missing[0])}: is missing, and its shard has a marker")
    with opened_parquet(store, names[0], InputError) as parquet:
        try:
            check_schema(parquet.schema_arrow)
        except ValueError as exc:
            raise InputError(f"{store.name(names[0])}: {exc}") from exc
        schema = plain_schema(made_schema(parquet.schema_arrow, whole))
    files = [
        InputFile(file.path, file.size, file.stamp, stats.ok, (stats.ok,), FORMAT, schema)
        for file, stats in zip((found[name] for name in names), markers, strict=True)
    ]
    return MadeTable(files, tuple(_left_out(store, markers, len(record.cut))))


def _refuse_own_file(prompts: str, options: Mapping[str, Any] | None) -> None:
    """Refuse a JSON file that a run has written into its output."""
    folder, slash, name = prompts.rpartition("/")
    if not OWN_NAMES.fullmatch(name) and not is_marker(name):
        return
    output = Store(folder or slash or ".", options)
    if _is_ours(output.read_if_there(NAME, MAX_BYTES)):
        raise InputError(
            f"{prompts}: is a file of the output {output.url}, not a table; to start from its pictures, name the folder"
        )


def _is_ours(content: bytes | None) -> bool:
    try:
        found = json.loads(content or b"")
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"version", "settings", "model", "inputs"} <= found.keys()


def _markers(store: Store, run: str | None, shards: int) -> list[ShardStats]:
    """The markers of the finished shards, by the number of shards. Raises `InputError` if one is damaged."""
    found = []
    finished = sorted(shard for shard in finished_shards(store.entries()) if shard < shards)
    for _, stats in read_markers(store, finished):
        if isinstance(stats, StorageError):
            raise InputError(str(stats)) from stats
        if stats.run == run:
            found.append(stats)
    return found


def _left_out(store: Store, markers: list[ShardStats], shards: int) -> list[str]:
    notices = []
    if failed := sum(stats.failed for stats in markers):
        notices.append(f"{store.url} is an output: its {failed:,} failed images are left out")
    if missing := shards - len(markers):
        notices.append(f"{store.url} is an output: {missing:,} of its {shards:,} shards are not finished, and left out")
    return notices
