"""File systems: every path that sdbatch reads or writes goes through `Store`, a thin face on fsspec.

Nothing is ever renamed and nothing is listed but one folder's top level, so object stores are first-class.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

import fsspec
from fsspec.core import split_protocol, url_to_fs
from fsspec.spec import AbstractBufferedFile

from sdbatch.errors import StorageError, UsageError
from sdbatch.storage_errors import client_errors, explain, is_transient, was_answered, without_secrets

__all__ = ["Store", "StoredFile"]

ATTEMPTS, FIRST_ATTEMPTS = 8, 2  # the latter of a store that has never answered
CLIENT_ATTEMPTS = 3  # of an S3 client, within each of ours
PART_BYTES = 16 << 20  # of a multipart upload
READ_AHEAD = 1 << 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 20.0
READERS = 32  # requests in flight where many small files are read
GLOB_CHARACTERS = "*?["

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its store lists it; `stamp` (an etag, else a time) changes when the content does."""

    path: str
    size: int
    stamp: str


class Store:
    """A folder (or file, or glob) on any file system, named by a local path or an fsspec URL.

    Transient failures (5xx, throttling, dropped connections) are retried with exponential backoff and full
    jitter; whatever remains is raised as `StorageError`, in one line that holds no credentials. Pickles to
    its URL and options.

    Args:
        url: local path or URL (`s3://bucket/folder`, `gs://…`, `memory://…`); must not hold a password.
        options: fsspec storage options (`key`, `secret`, `endpoint_url`, `anon`, …); ignored for local paths.

    Raises:
        UsageError: the URL holds a password, or its protocol is unknown.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        protocol, rest = split_protocol(os.fspath(url))
        user, at, _ = rest.partition("@") if protocol else ("", "", "")
        if at and ":" in user and "/" not in user:
            raise UsageError(
                f"{protocol}://…@{rest.partition('@')[2]}: a URL must not hold a password; "
                "use the store's environment variables or --storage-options"
            )
        self._address = os.path.abspath(rest) if protocol in (None, "file", "local") else url.rstrip("/")
        self.url = self._address.partition("?")[0] if protocol in ("http", "https") else self._address
        self.options = dict(options or {})
        self._reached = False

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "is_local")}

    @cached_property
    def is_local(self) -> bool:
        return split_protocol(self._address)[0] is None

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        protocol = split_protocol(self._address)[0]
        if protocol is None:
            return url_to_fs(self._address, auto_mkdir=True)
        # A cached listing would hide what other workers wrote since.
        options = {"use_listings_cache": False, **self.options}
        if protocol in ("s3", "s3a"):
            retries = {"retries": {"mode": "standard", "max_attempts": CLIENT_ATTEMPTS}}
            options["config_kwargs"] = {**retries, **options.get("config_kwargs", {})}
        try:
            return url_to_fs(self._address, **options)
        except (ImportError, ValueError, TypeError) as exc:
            raise UsageError(without_secrets(f"{self.url}: {exc}", self.options)) from exc

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    def _path(self, name: str) -> str:
        root = self._opened[1]
        return f"{root.rstrip('/')}/{name}" if name else root

    def name(self, name: str) -> str:
        """The URL of a file in this store, for messages and for other tools."""
        return f"{self.url}/{name}" if name else self.url

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `StorageError`, also where there is no such file."""
        return self.retried("read", name, lambda: self._fs.cat_file(self._path(name)))

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of many small files, in their order, with many requests under way."""
        pool = ThreadPoolExecutor(READERS)
        under_way: deque[Future[bytes]] = deque()
        ahead = 1  # at first, for many a consumer wants only the first few
        try:
            for name in names:
                under_way.append(pool.submit(self.read, name))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
                    # No further, or a slow consumer would have all in memory.
                    ahead = min(2 * ahead, 2 * READERS)
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in one go, and its parent folders on a local disk."""
        self.retried("write", name, lambda: self._fs.pipe_file(self._path(name), data))

    def write_stream(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        """Writes a large file piece by piece: `produce(file)`, called again from the start if the store
        fails.

        An object store takes it as a multipart upload, so memory holds only the part under way.
        """

        def attempt() -> None:
            with self._fs.open(self._path(name), "wb", block_size=PART_BYTES) as file:
                try:
                    produce(file)
                except BaseException:
                    _abandon(file)
                    raise

        self.retried("write", name, attempt)

    def open(self, name: str, block_size: int = READ_AHEAD) -> BinaryIO:
        """A file open for reading, at least `block_size` bytes at a time.

        On remote stores its reads are retried like all else, and raise `StorageError`.
        """
        path = self._path(name)
        # Its own cache would read 50 MB ahead at every jump, and a Parquet reader jumps.
        file = self.retried("open", name, lambda: self._fs.open(path, "rb", cache_type="none"))
        return file if self.is_local else io.BufferedReader(_RetriedFile(self, name, file), block_size)

    def exists(self, name: str) -> bool:
        return self.retried("look for", name, lambda: self._fs.exists(self._path(name)))

    def remove(self, name: str, recursive: bool = False) -> None:
        """Removes a file, or with `recursive` a folder; what is not there needs no removing."""

        def attempt() -> None:
            try:
                if recursive:
                    self._fs.rm(self._path(name), recursive=True)
                else:
                    self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

        self.retried("remove", name, attempt)

    def entries(self, name: str = "") -> dict[str, int]:
        """One listing of the top level (of the folder `name`): name to size; a folder ends in a slash (size 0)."""

        def attempt() -> list[tuple[str, bool, int]]:
            path = self._path(name)
            try:
                if self.is_local:  # a million markers: fsspec would take ten times as long
                    with os.scandir(path) as found:
                        return [(entry.path, entry.is_dir(), _size(entry)) for entry in found]
                infos = self._fs.ls(path, detail=True)
            except FileNotFoundError:
                return []
            return [(info["name"], info["type"] == "directory", int(info["size"] or 0)) for info in infos]

        root = self._path(name).rstrip("/") + "/"
        listed: dict[str, int] = {}
        for path, folder, size in self.retried("list", name, attempt):
            base = path.rstrip("/").removeprefix(root)
            if base and base != root.rstrip("/"):  # some stores list the folder itself, as an empty object
                listed[base + "/" if folder else base] = 0 if folder else size
        return listed

    def files(self) -> list[StoredFile]:
        """The files that the URL names: itself, the files directly in its folder, or the matches of its glob.

        In the order of their paths; empty if there are none.
        """

        def attempt() -> list[dict[str, Any]]:
            fs, path = self._opened
            try:
                info = fs.info(path)
            except FileNotFoundError:
                if not any(c in path for c in GLOB_CHARACTERS):
                    return []
                return list(fs.glob(path, detail=True).values())
            return fs.ls(path, detail=True) if info["type"] == "directory" else [info]

        found = [info for info in self.retried("list", "", attempt) if info["type"] == "file"]
        files = [StoredFile(self._url_of(i["name"]), int(i["size"] or 0), _stamp(i)) for i in found]
        return sorted(files, key=lambda file: file.path)

    def probe(self) -> None:
        """Writes and deletes a small object, so that a store that cannot take the output says so before
        anything runs.

        Raises:
            StorageError: wrong keys, a missing bucket, no permission to write, a disk that is full or
            read-only.
        """
        path = self._path(f".sdbatch-probe-{uuid4().hex}")
        self.retried("write to", "", lambda: self._fs.pipe_file(path, b"probe"))
        self.retried("delete from", "", lambda: self._fs.rm_file(path))

    @contextmanager
    def mapped(self, verb: str, name: str) -> Iterator[None]:
        """Maps what a library raises while it uses a file of this store to `StorageError`."""
        try:
            yield
        except client_errors() as exc:
            raise self._explained(verb, name, exc) from exc

    def _url_of(self, path: str) -> str:
        return path if self.is_local else self._fs.unstrip_protocol(path)

    def retried(self, verb: str, name: str, act: Callable[[], T]) -> T:
        """What `act` returns, tried again while the trouble may pass. Raises `StorageError`."""
        attempt = 1
        while True:
            try:
                result = act()
            except client_errors() as exc:
                # Who never answered was likely never there: say so soon, while somebody waits for it.
                most = ATTEMPTS if self._reached or was_answered(exc) else FIRST_ATTEMPTS
                if attempt >= most or not is_transient(exc):
                    raise self._explained(verb, name, exc) from exc
            else:
                self._reached = True
                return result
            time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)))
            attempt += 1

    def _explained(self, verb: str, name: str, exc: BaseException) -> StorageError:
        return StorageError(without_secrets(f"cannot {verb} {self.name(name)}: {explain(exc)}", self.options))


class _RetriedFile(io.RawIOBase):
    """A file of a store, open for reading, each of whose reads is tried again."""

    def __init__(self, store: Store, name: str, file: Any) -> None:
        self._store, self._name, self._file, self._at = store, name, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        def attempt() -> bytes:
            self._file.seek(self._at)
            return self._file.read(len(buffer))

        data = self._store.retried("read", self._name, attempt)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _abandon(file: Any) -> None:
    """Closes a half-written file; an object store must not complete the upload that it belongs to."""
    if isinstance(file, AbstractBufferedFile) and not file.closed:
        file.discard()
        file.closed = True
    else:
        file.close()


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # it went while we looked
        return 0


def _stamp(info: Mapping[str, Any]) -> str:
    for field in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(field):
            return str(info[field]).strip('"')
    if isinstance(info.get("ino"), int):
        return str(os.stat(info["name"]).st_mtime_ns)  # the listing has it only as a float
    for field in ("LastModified", "last_modified", "updated", "created", "mtime"):
        if info.get(field):
            return str(info[field])
    return ""
