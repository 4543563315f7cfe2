"""Checks storage options (`--storage-options`) before a client is created with them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sdbatch.errors import UsageError

__all__ = ["are_unused", "check_options", "refusal", "refuse_passwords"]

UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
# Parameters of s3fs with default None, whose type its signature does not show.
MAPPINGS = ("client_kwargs", "config_kwargs", "s3_additional_kwargs")
TEXTS = ("key", "secret", "token", "username", "password", "endpoint_url", "profile")


def are_unused(options: Mapping[str, Any], places: Iterable[str | None]) -> bool:
    """Whether there are options, and none of the places, which are paths, texts that hold them, or None, is a URL."""
    return bool(options) and not any("://" in place for place in places if place)


def refuse_passwords(options: Mapping[str, Any]) -> None:
    """Reject a password in a URL: a client would retry for a minute, and then print it."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            refuse_passwords(value)
        elif isinstance(value, str) and "@" in value.partition("://")[2].partition("/")[0]:
            raise UsageError(
                f"storage option {name!r}: a URL must not contain a user or a password; use the options key and secret"
            )


def check_options(url: str, kind: type, options: Mapping[str, Any]) -> None:
    """Check options against the parameters of the file system's class.

    Args:
        url: the URL to open, for the message.

    Raises:
        UsageError: a value's type differs from that of the parameter's default; the message names the option.
    """
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    for name, value in options.items():
        default = parameters[name].default if name in parameters else None
        wanted = ""
        if isinstance(default, bool) and not isinstance(value, bool):
            wanted = "true or false"
        elif type(default) is int and type(value) is not int:
            wanted = "a whole number"
        elif name in MAPPINGS and not isinstance(value, Mapping | None):
            wanted = "an object"
        elif name in TEXTS and not isinstance(value, str | None):
            wanted = "text"
        if wanted:
            raise UsageError(f"{url}: storage option {name!r} is {str(value)[:40]!r}; expected {wanted}")


def refusal(exc: Exception) -> str:
    """The reason why a file system's class or its client rejects its options."""
    unknown = UNKNOWN.search(str(exc))
    return f"the client has no storage option {unknown[1]!r}" if unknown else " ".join(str(exc).split())
