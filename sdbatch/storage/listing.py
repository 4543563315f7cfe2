"""What a store lists: files with their sizes and stamps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Listing", "StoredFile", "kind_of", "size_of", "stamp_of"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its store lists it; `stamp` (an etag, else a time) changes when the content does."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a URL names, in the order of paths; `is_folder` where it names a folder, of which this lies directly in.

    `others` are pipes, devices, and links to what is not there.
    """

    files: list[StoredFile]
    folders: list[str]
    is_folder: bool
    others: list[str]


def size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # it went while we looked
        return 0


def kind_of(info: Mapping[str, Any]) -> str:
    """file, directory or other; a local link is what it leads to, where fsspec lists it as another thing."""
    if info.get("islink") and info["type"] == "other":
        name = info["name"]
        return "directory" if os.path.isdir(name) else "file" if os.path.isfile(name) else "other"
    return str(info["type"])


def stamp_of(info: Mapping[str, Any]) -> str:
    for field in ("ETag", "etag", "md5Hash", "content_md5", "blob_id"):  # the last of the Hugging Face hub
        if info.get(field):
            return str(info[field]).strip('"')
    if isinstance(info.get("ino"), int):
        return str(os.stat(info["name"]).st_mtime_ns)  # the listing has it only as a float
    for field in ("LastModified", "last_modified", "updated", "created", "mtime"):
        if info.get(field):
            return str(info[field])
    return ""
