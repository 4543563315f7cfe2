"""Refuses destinations that overlap the input or the model, or that cannot store files."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fsspec.utils import glob_translate

from sdbatch.errors import UsageError
from sdbatch.output.footprint import Footprint
from sdbatch.output.keys import shard_name
from sdbatch.output.manifest_files import OWN_NAMES, REPORTS, TABLES
from sdbatch.prompts import InputFile
from sdbatch.prompts.partitions import is_partition
from sdbatch.storage.addresses import protocol_of
from sdbatch.storage.claims import CLAIMS
from sdbatch.storage.store import GLOB_CHARACTERS, Store

__all__ = ["check_out", "check_overwrite", "check_sources", "hub_notices", "is_own", "name_within"]

# What `Store.resolved` returns: protocol and path.
Place = tuple[str | None, str]
# Stores that keep nothing, or that are read-only.
NOT_KEPT = ("memory", "data", "http", "https", "github", "git", "gist", "jupyter", "jlab", "generic", "pyscript")
# Of the Hugging Face hub: commits to one repository, and files that one should have at most.
COMMITS_AN_HOUR, HUB_FILES = 128, 100_000
PROBED = 10_000  # shards whose names are matched against a glob


def check_out(out: str) -> None:
    """Refuse an OUT that cannot be an output for any input. Raises `UsageError`."""
    if isinstance(out, str) and not out.strip():
        raise UsageError("OUT is empty; name a folder or a URL")
    protocol = protocol_of(out)
    if protocol in NOT_KEPT:
        raise UsageError(f"OUT {out}: {protocol} stores no files; use a folder, or a store such as s3://bucket/folder")
    if protocol is None:
        place = Store(out).resolved()[1]
        for name, paths in (
            ("the root folder", ["/"]),
            ("a home folder", _homes()),
            ("the current folder", [os.getcwd()]),
        ):
            if place in map(os.path.realpath, paths):
                raise UsageError(f"OUT {out} is {name}; use a separate folder for the output")


def check_sources(
    out: Store, prompts: str | None, files: Sequence[InputFile], model: str, options: Mapping[str, Any]
) -> None:
    """Refuse an OUT that holds the prompt table or the model, or that would be read as part of the table.

    Args:
        prompts: None for a table that OUT itself keeps.

    Raises:
        UsageError: the message names which.
    """
    tables = [file.path for file in files if file.format != "prompt"]
    place = out.resolved()
    if prompts is not None and tables:
        named = [] if _is_glob(prompts, tables) else [prompts]
        for path in (*named, *_one_per_folder(tables, place)):
            if _is_within(place, Store(path, options).resolved()):
                raise UsageError(f"OUT {out.url} holds the prompt table {path}; use a separate folder for the output")
    is_place = model != "tiny" and ("://" in model or os.path.exists(model))
    if is_place and _is_within(place, Store(model, options).resolved()):
        raise UsageError(f"OUT {out.url} holds the model {model}; use a separate folder for the output")
    if prompts is not None and tables and _looks_in(Store(prompts, options), out, _is_glob(prompts, tables)):
        raise UsageError(f"OUT {out.url}: {prompts} would read the output as a prompt table; use another OUT")


def check_overwrite(out: Store) -> None:
    """Refuse `--overwrite` where runs cannot take turns: a claim is renewed every few seconds. Raises `UsageError`."""
    if out.has_commits:
        raise UsageError(
            f"OUT {out.url} exists, and --overwrite does not work on the Hugging Face hub, where each change is a "
            "commit; use another folder, or delete this one first (hf repos delete-files)"
        )


def hub_notices(out: Store, shards: int, images: int, layout: str) -> list[str]:
    """Warnings about an OUT on the Hugging Face hub that would meet the hub's limits."""
    if not out.has_commits:
        return []
    notices, place = [], "OUT is on the Hugging Face hub"
    if shards > COMMITS_AN_HOUR:
        notices.append(
            f"{place}: {shards:,} shards are {shards:,} commits, and it allows {COMMITS_AN_HOUR} an hour; "
            "larger shards need fewer (--shard-size)"
        )
    if layout == "files" and images > HUB_FILES:
        notices.append(
            f"{place}: {images:,} files, and it recommends at most {HUB_FILES:,} in a repository; "
            "use --layout webdataset or parquet"
        )
    return notices


def name_within(out: Store, target: Store) -> str | None:
    """The name of `target` within `out`, by its resolved path; None if it is elsewhere."""
    return _name_within(out.resolved(), target.resolved())


def is_own(footprint: Footprint, name: str) -> bool:
    """Whether a file name (relative to the output) is one that the output can have."""
    first, _, rest = name.partition("/")
    if OWN_NAMES.fullmatch(name) or first in (REPORTS, TABLES, CLAIMS, "gallery"):
        return True
    shard = footprint.shard_of(f"{first}/" if rest else first)
    return shard is not None and (not rest or footprint.has_in_folder(shard, rest))


def _one_per_folder(paths: Iterable[str], out: Place) -> Iterator[str]:
    """One file of each folder: OUT holds its siblings, too, except for links, and for a file that OUT itself names."""
    seen: set[str] = set()
    own = out[1].rpartition("/")[2]
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in seen or name == own or os.path.islink(path):
            seen.add(folder)
            yield path


def _name_within(folder: Place, place: Place) -> str | None:
    (protocol, path), (other, below) = folder, place
    inside = protocol == other and below.startswith(path.rstrip("/") + "/")
    return below[len(path.rstrip("/")) + 1 :] if inside else None


def _is_within(folder: Place, place: Place) -> bool:
    return folder == place or _name_within(folder, place) is not None


def _is_glob(prompts: str, tables: Iterable[str]) -> bool:
    """Whether the path is a pattern, not a file with such characters in its name."""
    return any(c in prompts for c in GLOB_CHARACTERS) and Store(prompts).url not in tables


def _looks_in(prompts: Store, out: Store, is_glob: bool) -> bool:
    """Whether a glob matches files of `out`, or `out` is among the Hive partitions of a folder."""
    if is_glob:
        return _matches(prompts, out)
    name = name_within(prompts, out)
    return name is not None and all(map(is_partition, name.split("/")))


def _matches(pattern: Store, out: Store) -> bool:
    """Whether a pattern matches a Parquet file that an output in `out` can have."""
    (protocol, path), (other, folder) = pattern.resolved(), out.resolved()
    if protocol != other:
        return False
    whole = re.compile(glob_translate(path))
    names = (f"{folder}/{shard_name(n)}{end}" for n in range(PROBED) for end in (".parquet", "/metadata.parquet"))
    # If a glob matches a folder, its partitions are read, to any depth.
    while is_partition(folder.rpartition("/")[2]):
        if whole.match(folder):
            return True
        folder = folder.rpartition("/")[0]
    return any(whole.match(name) for name in names)


def _homes() -> list[str]:
    homes = [os.path.expanduser("~")]
    with suppress(OSError):
        homes += [entry.pw_dir for entry in pwd.getpwall()]
    return [home for home in homes if os.path.isabs(home)]
