"""The identity of a dataset, which its markers carry."""

from __future__ import annotations

import re

from sdbatch.storage.store import Store

__all__ = ["NAME", "manifest_id"]

NAME = "run.json"
ID = re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"id":\s*"([0-9a-f]{32})"')
HEAD_BYTES = 200


def manifest_id(out: Store) -> str | None:
    """The identity of OUT, from the first bytes of run.json; None in an OUT of version 1. Raises `StorageError`."""
    match = ID.match(out.head(NAME, HEAD_BYTES))
    return match[1].decode() if match else None
