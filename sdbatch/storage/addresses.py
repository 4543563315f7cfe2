"""Parses addresses: local paths, and URLs of stores."""

from __future__ import annotations

import os
import re

from sdbatch.errors import UsageError

__all__ = ["protocol_of", "split_address"]

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://(.*)", re.DOTALL)
LOCAL = ("file", "local")
WRAPPERS = (
    *("simplecache", "filecache", "blockcache", "cached", "dir", "reference", "async_wrapper", "asyncwrapper"),
    *("zip", "tar", "libarchive"),
)


def split_address(address: str) -> tuple[str | None, str]:
    """Protocol (None: local) and the rest of an address; local paths are made absolute.

    A local path is used unchanged: `::`, which has a special meaning in fsspec, is part of a name.

    Raises:
        UsageError: a URL within a URL (`simplecache::s3://…`, `zip://…::s3://…`), an empty path, or a path that
            no file system allows.
    """
    try:
        address = os.fspath(address)
    except TypeError as exc:
        raise UsageError(f"a path is {address!r}; expected text") from exc
    if not isinstance(address, str):
        raise UsageError(f"a path is {address!r}; expected text")
    if not address:
        raise UsageError("a path is empty; name a file, a folder or a URL")
    if "\0" in address:
        raise UsageError(f"{address!r}: a path must not contain the character NUL")
    try:
        address.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{address!r}: is not UTF-8; rename it") from exc
    before, _, _ = address.partition("://")
    chained = "::" in before and re.fullmatch(r"[a-z0-9_+.:\-]+", before) and URL.fullmatch(address.rpartition("::")[2])
    if chained:
        raise UsageError(f"{address}: URLs within URLs ({before}://) are not supported; name the files themselves")
    match = URL.fullmatch(address)
    if match is None:
        if address.startswith("data:"):
            return "data", address.removeprefix("data:")
        return None, os.path.abspath(address)
    protocol, rest = match.groups()
    if protocol in LOCAL:
        return None, os.path.abspath(rest)
    if protocol in WRAPPERS or re.search(r"::[a-z0-9+.\-]+://", rest):
        raise UsageError(f"{address}: archives and URLs within URLs are not supported; name the files themselves")
    return protocol, rest


def protocol_of(address: str) -> str | None:
    """The protocol of an address; None for a local path."""
    return split_address(address)[0]
