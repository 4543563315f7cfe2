"""All file access of sdbatch goes through `Store`, a thin layer over fsspec.

Dataset files are never renamed, and listings are limited to one folder's top level, so object stores work well.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

from fsspec.spec import AbstractBufferedFile

from sdbatch.errors import StorageError
from sdbatch.storage.bounded_reads import read_at_most, read_range
from sdbatch.storage.concurrent_reads import READERS, in_order
from sdbatch.storage.connection import Connection
from sdbatch.storage.listing import (
    Listing,
    StoredFile,
    entries_of,
    list_local,
    list_matches,
    list_stored,
    local_stamp,
    stamp_of,
)
from sdbatch.storage.local_files import (
    check_regular,
    clear_place,
    create_whole,
    read_whole,
    remove_folder,
    replace_whole,
)
from sdbatch.storage.retried_file import RetriedFile
from sdbatch.storage.storage_errors import (
    client_errors,
    is_absence,
    knows_no_conditions,
    was_condition,
)

__all__ = ["Fetched", "Listing", "Store", "StoredFile"]

PART_BYTES = 16 << 20  # per part of a multipart upload
READ_AHEAD = 1 << 20
MAX_BYTES = 2 << 30  # of a file that is read as a whole
GLOB_CHARACTERS = "*?["
REMOVED_AT_ONCE = 1000
LOCAL_READS = 8  # that one thread makes after another


class Fetched(NamedTuple):
    """The content of a file with its size and stamp."""

    content: bytes
    size: int
    stamp: str


class Store(Connection):
    """A folder (or file, or glob) on any file system: a `Connection` that reads, writes, lists and removes files."""

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        """The content of a file. Raises `StorageError`, also if the file does not exist.

        A file of more than `max_bytes` bytes is rejected; on a local disk, anything but a regular file, too.
        """

        return self.retried("read", name, lambda: self._content(name, max_bytes))

    def _content(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        path = self._path(name)
        return read_whole(path, max_bytes)[0] if self.is_local else read_at_most(self._fs, path, max_bytes)

    def fetch(self, name: str) -> Fetched:
        """The content of a file with the size and the stamp that `files` gives. Raises `StorageError`, as `read` does.

        A file that changes meanwhile may have a newer stamp than its content, never an older one.
        """

        def attempt() -> Fetched:
            path = self._path(name)
            if self.is_local:
                content, state = read_whole(path, MAX_BYTES)
                return Fetched(content, state.st_size, local_stamp(state))
            content, info = read_at_most(self._fs, path, MAX_BYTES), self._fs.info(path)
            return Fetched(content, int(info["size"] or 0), stamp_of(info))

        return self.retried("read", name, attempt)

    def read_if_there(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """Like `read`; None if the file does not exist."""

        def attempt() -> bytes | None:
            try:
                return self._content(name, max_bytes)
            except FileNotFoundError as exc:
                if not is_absence(exc):
                    raise
                return None

        return self.retried("read", name, attempt)

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of many small files, in order, read concurrently."""
        return in_order(self.read, names, self._together)

    def fetch_many(self, names: Iterable[str]) -> Iterator[Fetched]:
        """`fetch` for many small files, in order, concurrently."""
        return in_order(self.fetch, names, self._together)

    def read_each(self, names: Iterable[str], max_bytes: int = MAX_BYTES) -> Iterator[bytes | StorageError]:
        """Like `read_many`, with the error in place of a file that cannot be read."""

        def attempt(name: str) -> bytes | StorageError:
            try:
                return self.read(name, max_bytes)
            except StorageError as error:
                return error

        return in_order(attempt, names, self._together)

    @property
    def _together(self) -> int:
        return LOCAL_READS if self.is_local else 1

    def write(self, name: str, data: bytes) -> None:
        """Write a file as a whole; on a local disk, create its parent folders."""

        def attempt() -> None:
            self._clear(name)
            self._fs.pipe_file(self._path(name), data)

        self.retried("write", name, attempt)

    def _clear(self, name: str) -> None:
        if self.is_local and name:
            clear_place(self._path(""), name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist; returns whether it now exists with exactly this content.

        If several processes create one file with different contents, only one succeeds on local disks and on stores
        with conditional writes (S3 and compatible ones); on others, the one whose content a reader then finds.
        """
        path = self._path(name)

        def attempt() -> None:
            with suppress(FileExistsError):
                if self.is_local:
                    create_whole(path, data)
                elif not self._fs.exists(path):
                    self._put_new(path, data)

        self.retried("create", name, attempt)
        # The answer to a write can be lost, and some stores lack conditional writes: the existing content decides.
        return self.read(name) == data

    def _put_new(self, path: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(path, data, mode="create")
        except client_errors() as exc:
            if was_condition(exc):
                raise FileExistsError(path) from exc
            if not knows_no_conditions(exc):
                raise
            self._fs.pipe_file(path, data)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file: at any moment, either the old or the new one exists completely."""
        if self.is_local:
            self.retried("write", name, lambda: replace_whole(self._path(name), data))
        else:
            self.write(name, data)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file. Raises `StorageError`, also if the file does not exist."""

        def attempt() -> bytes:
            path = self._path(name)
            if self.is_local and not check_regular(path).st_size:
                return b""
            return read_range(self._fs, path, size)

        return self.retried("read", name, attempt)

    def write_stream(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        """Write a large file piece by piece: `produce(file)`, called again if the store fails.

        For object stores this is a multipart upload, so only the current part is in memory.
        """

        def attempt() -> None:
            self._clear(name)
            with self._fs.open(self._path(name), "wb", block_size=PART_BYTES) as file:
                try:
                    produce(file)
                except BaseException:
                    _abandon(file)
                    raise

        self.retried("write", name, attempt)

    def open(self, name: str, block_size: int = READ_AHEAD) -> BinaryIO:
        """Open a file for reading; reads at least `block_size` bytes at a time.

        On remote stores its reads are retried like other requests, and raise `StorageError`.
        """
        path = self._path(name)
        # fsspec's default cache would read 50 MB ahead at every seek, and Parquet readers seek often.
        if self.is_local and not self.retried("open", name, lambda: check_regular(path)).st_size:
            return io.BytesIO()  # some files of /proc have no size, and block
        file = self.retried("open", name, lambda: self._fs.open(path, "rb", cache_type="none"))
        return file if self.is_local else io.BufferedReader(RetriedFile(self, name, file), block_size)

    def local_file(self, name: str) -> str:
        """The path of a regular file on a local disk, with links followed. Raises `StorageError` for anything else."""
        path = self._path(name)
        self.retried("read", name, lambda: check_regular(path, MAX_BYTES))
        return os.path.realpath(path)

    def is_folder(self) -> bool:
        return self.retried("look for", "", lambda: self._fs.isdir(self._path("")))

    def resolved(self) -> tuple[str | None, str]:
        """Protocol (None: local) and path, equal for all addresses of one location; symlinks are followed."""
        protocol = "s3" if self._protocol == "s3a" else self._protocol
        return protocol, os.path.realpath(self._address) if self.is_local else self._path("").rstrip("/")

    def exists(self, name: str) -> bool:
        return self.retried("look for", name, lambda: self._fs.exists(self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

        self.retried("remove", name, attempt)

    def remove_many(self, names: Iterable[str]) -> None:
        """Remove files, many at a time."""
        names = list(names)
        paths = [self._path(name) for name in names]
        # Many stores remove a thousand files in one request. fsspec expands globs in lists of paths.
        if not self.is_local and not any(c in path for path in paths for c in GLOB_CHARACTERS):
            for start in range(0, len(paths), REMOVED_AT_ONCE):
                self.retried("remove from", "", partial(self._rm, paths[start : start + REMOVED_AT_ONCE]))
            return
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(self.remove, names))

    def _rm(self, paths: list[str]) -> None:
        try:
            self._fs.rm(paths)
        except FileNotFoundError:  # another process has removed some of them
            for path in paths:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def remove_link(self, name: str) -> None:
        """Remove a symbolic link in place of a folder, so that nothing is written through it."""
        if self.is_local and os.path.islink(self._path(name)):
            self.retried("remove", name, lambda: os.unlink(self._path(name)))

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder, on file systems with real folders."""
        if self.is_local:
            remove_folder(self._path(name))

    def entries(self, name: str = "") -> dict[str, int]:
        """List the top level (of the folder `name`) in one request: name to size; folders end with a slash (size 0)."""

        def attempt() -> list[tuple[str, bool, int]]:
            path = self._path(name)
            try:
                if self.is_local:
                    return entries_of(path)
                infos = self._fs.ls(path, detail=True)
            except FileNotFoundError as exc:
                if not is_absence(exc):
                    raise
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

        Sorted by path; empty if there are none.
        """
        return self.listing().files

    def files_by_name(self) -> dict[str, StoredFile]:
        """The files by their names without the folder."""
        return {file.path.rpartition("/")[2]: file for file in self.files()}

    def listing(self) -> Listing:
        """The files as in `files`, and the folders directly in the folder or matching the glob."""

        return self.retried("list", "", self._listing)

    def _listing(self) -> Listing:
        fs, path = self._opened
        try:
            if self.is_local:
                return list_local(path)
            info = fs.info(path)
        except FileNotFoundError as exc:
            if not is_absence(exc):
                raise
            is_glob = any(c in path for c in GLOB_CHARACTERS)
            if self.is_local:
                return list_matches(fs.glob(path) if is_glob else [])
            return list_stored(fs.glob(path, detail=True).values() if is_glob else [], fs.unstrip_protocol)
        if info["type"] != "directory":
            return list_stored([info], fs.unstrip_protocol)
        return list_stored(fs.ls(path, detail=True), fs.unstrip_protocol, path)

    def probe(self) -> None:
        """Write and delete a small object, to find out before the run whether the store accepts the output.

        Raises:
            StorageError: wrong keys, a missing bucket, no permission to write, a disk that is full or
                read-only.
        """
        if self.has_commits:  # a probe would be two commits
            return self.retried("write to", "", lambda: self._fs.may_write(self._path("")))
        path = self._path(f".sdbatch-probe-{uuid4().hex}")
        try:
            self.retried("write to", "", lambda: self._fs.pipe_file(path, b"probe"))
        except StorageError:
            with suppress(Exception):  # on a full disk, the file exists without its content
                self._fs.rm_file(path)
            raise
        self.retried("delete from", "", lambda: self._fs.rm_file(path))
        return None

    def commit(self, *, when_due: bool = False) -> None:
        """Make visible what a store holds back (`held_writes.HeldStore`); other stores write at once.

        Args:
            when_due: only if there is much of it.
        """


def _abandon(file: Any) -> None:
    """Close a partly written file; an object store must not complete its upload."""
    if isinstance(file, AbstractBufferedFile) and not file.closed:
        file.discard()
        file.closed = True
    else:
        file.close()
