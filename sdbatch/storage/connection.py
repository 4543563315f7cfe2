"""One file system, opened by its URL: errors as one line, transient failures retried."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sdbatch.errors import StorageError, UsageError
from sdbatch.storage.addresses import split_address
from sdbatch.storage.storage_errors import client_errors, explain, is_transient, was_answered, without_secrets
from sdbatch.storage.storage_options import check_options, refusal, refuse_passwords

__all__ = ["Connection"]

ATTEMPTS, FIRST_ATTEMPTS = 8, 2  # the latter for a store that has never answered
CLIENT_ATTEMPTS = 3  # of the S3 client itself, within each of ours
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 20.0
BUCKETED = ("s3", "s3a", "gs", "gcs")
SHOWN_CHARACTERS = 40

BUCKETS = "hf://buckets/"  # storage of the Hugging Face hub without commits

T = TypeVar("T")


class Connection:
    """A folder (or file, or glob) on any file system, named by a local path or an fsspec URL.

    Transient failures (5xx, throttling, dropped connections) are retried with exponential backoff and full
    jitter; other failures are raised as `StorageError`, in one line without credentials. Pickles to
    its URL and options.

    Args:
        url: local path or URL (`s3://bucket/folder`, `gs://…`); must not contain a password.
        options: fsspec storage options (`key`, `secret`, `endpoint_url`, `anon`, …); ignored for local paths.

    Raises:
        UsageError: the URL contains a password, is a URL within a URL, or has an unknown protocol.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        protocol, rest = split_address(url)
        user, at, _ = rest.partition("@") if protocol else ("", "", "")
        if at and ":" in user and "/" not in user:
            raise UsageError(
                f"{protocol}://…@{rest.partition('@')[2]}: a URL must not contain a password; "
                "use the store's environment variables or --storage-options"
            )
        if protocol == "data":
            raise UsageError(f"{url[:SHOWN_CHARACTERS]}: data: URLs are not supported; write the data into a file")
        if protocol in BUCKETED and not rest.partition("/")[0]:
            raise UsageError(f"{url}: names no bucket; write {protocol}://BUCKET/PATH")
        self._protocol = protocol
        self._address = rest if protocol is None else url.rstrip("/")
        if not isinstance(options, Mapping | None):
            raise UsageError(f"storage options are {options!r}; expected a mapping of names")
        refuse_passwords(options or {})
        self.url = self._address.partition("?")[0] if protocol in ("http", "https") else self._address
        self.options = dict(options or {})
        self._reached = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_opened"}

    @property
    def is_local(self) -> bool:
        return self._protocol is None

    @property
    def has_commits(self) -> bool:
        """Whether each write is a commit: to repositories of the Hugging Face hub, which limits their number."""
        return self._protocol == "hf" and not self._address.startswith(BUCKETS)

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        if self.is_local:
            return LocalFileSystem(auto_mkdir=True), self._address
        # A cached listing would hide files that other workers have written since.
        options = {"use_listings_cache": False, **self.options}
        try:
            # Not `url_to_fs`, which treats `::` in a key as the start of another URL.
            kind = _file_system_of(self._protocol)
            check_options(self.url, kind, options)
            if is_s3 := self._protocol in ("s3", "s3a"):
                retries = {"retries": {"mode": "standard", "max_attempts": CLIENT_ATTEMPTS}}
                options["config_kwargs"] = {**retries, **(options.get("config_kwargs") or {})}
            in_url = kind._get_kwargs_from_urls(self._address)
            fs = kind(**{**in_url, **options})
            if is_s3:
                fs.connect()  # creates the client without a request, so that invalid options are found here
            return fs, kind._strip_protocol(self._address)
        except (ImportError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as exc:
            raise UsageError(without_secrets(f"{self.url}: {refusal(exc)}", self.options)) from exc
        except client_errors() as exc:
            raise self._explained("open", "", exc) from exc

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    def _path(self, name: str) -> str:
        root = self._opened[1]
        return f"{root.rstrip('/')}/{name}" if name else root

    def name(self, name: str) -> str:
        """The URL of a file in this store, for messages and other tools."""
        return f"{self.url}/{name}" if name else self.url

    @contextmanager
    def mapped(self, verb: str, name: str) -> Iterator[None]:
        """Map exceptions of libraries that use a file of this store to `StorageError`."""
        try:
            yield
        except client_errors() as exc:
            raise self._explained(verb, name, exc) from exc

    def retried(self, verb: str, name: str, act: Callable[[], T]) -> T:
        """The result of `act`, retried on transient failures. Raises `StorageError`."""
        attempt = 1
        while True:
            try:
                result = act()
            except client_errors() as exc:
                # A server that has never answered probably does not exist: fail soon, while the user is waiting.
                attempts = ATTEMPTS if self._reached or was_answered(exc) else FIRST_ATTEMPTS
                if attempt >= attempts or not is_transient(exc):
                    raise self._explained(verb, name, exc) from exc
            else:
                self._reached = True
                return result
            time.sleep(random.uniform(0, min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)))
            attempt += 1

    def _explained(self, verb: str, name: str, exc: BaseException) -> StorageError:
        return StorageError(without_secrets(f"cannot {verb} {self.name(name)}: {explain(exc)}", self.options))


def _file_system_of(protocol: str | None) -> type[fsspec.AbstractFileSystem]:
    kind = fsspec.get_filesystem_class(protocol)
    if kind.__module__.startswith("huggingface_hub."):
        from sdbatch.storage.hub_repositories import HubFileSystem  # its imports take most of a second

        return HubFileSystem
    return kind
