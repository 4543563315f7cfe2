"""Files with their sizes and stamps, as stores list them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Listing", "StoredFile", "kind_of", "size_of", "stamp_of"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its store lists it; `stamp` (an etag or a time) changes when the content does."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files and folders that a URL names, sorted by path; with `is_folder`, the direct contents of a folder.

    `others` are pipes, devices and broken links.
    """

    files: list[StoredFile]
    folders: list[str]
    is_folder: bool
    others: list[str]


def size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # removed in the meantime
        return 0


def kind_of(info: Mapping[str, Any]) -> str:
    """The kind: "file", "directory" or "other". A local link has its target's kind, unlike in fsspec's listing."""
    if info.get("islink") and info["type"] == "other":
        name = info["name"]
        return "directory" if os.path.isdir(name) else "file" if os.path.isfile(name) else "other"
    return str(info["type"])


def stamp_of(info: Mapping[str, Any]) -> str:
    for field in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(field):
            return str(info[field]).strip('"')
    if isinstance(info.get("ino"), int):
        return str(os.stat(info["name"]).st_mtime_ns)  # the listing's time is only a float
    for field in ("LastModified", "last_modified", "updated", "created", "mtime"):
        if info.get(field):
            return str(info[field])
    return ""
