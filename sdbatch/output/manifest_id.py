"""The identity of a dataset, which its markers carry."""

from __future__ import annotations

import re

from sdbatch.storage.store import Store
from sdbatch.typed_json import read_object

__all__ = ["MAX_BYTES", "NAME", "manifest_id"]

NAME = "run.json"
ID = re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"id":\s*"([0-9a-f]{32})"')
HEAD_BYTES = 200
MAX_BYTES = 256 << 20  # of each file of a manifest: a million input files


def manifest_id(out: Store) -> str | None:
    """The identity of OUT; None in an OUT of version 1. Reads only the first bytes of run.json if sdbatch wrote them.

    Raises:
        UsageError: run.json is damaged.
        StorageError: it cannot be read.
    """
    if match := ID.match(out.head(NAME, HEAD_BYTES)):
        return match[1].decode()
    return read_object(out.read(NAME, MAX_BYTES), out.name(NAME)).text("id", missing=None)
