"""All file access of sdbatch goes through `Store`, a thin layer over fsspec.

Dataset files are never renamed, and listings are limited to one folder's top level, so object stores work well.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO
from uuid import uuid4

from fsspec.spec import AbstractBufferedFile

from sdbatch.errors import StorageError
from sdbatch.storage.connection import Connection
from sdbatch.storage.listing import Listing, StoredFile, kind_of, size_of, stamp_of
from sdbatch.storage.local_files import create_whole, remove_folder, replace_whole
from sdbatch.storage.retried_file import RetriedFile
from sdbatch.storage.storage_errors import (
    client_errors,
    is_absence,
    knows_no_conditions,
    was_condition,
)

__all__ = ["Listing", "Store", "StoredFile"]

PART_BYTES = 16 << 20  # per part of a multipart upload
READ_AHEAD = 1 << 20
READERS = 32  # concurrent requests while reading many small files
MAX_BYTES = 2 << 30  # of a file that is read as a whole
GLOB_CHARACTERS = "*?["
REMOVED_AT_ONCE = 1000


class Store(Connection):
    """A folder (or file, or glob) on any file system: a `Connection` that reads, writes, lists and removes files."""

    def read(self, name: str, most: int = MAX_BYTES) -> bytes:
        """The content of a file. Raises `StorageError`, also if the file does not exist.

        On a local disk, anything but a regular file of at most `most` bytes is rejected without opening it.
        """

        def attempt() -> bytes:
            self._check_local(name, most)
            return self._fs.cat_file(self._path(name))

        return self.retried("read", name, attempt)

    def _check_local(self, name: str, most: float = math.inf) -> None:
        """Reject what could block or fill memory: pipes, devices, and files that are too large."""
        if not self.is_local:
            return
        found = os.stat(self._path(name))
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than the maximum of {most:,}")

    def read_if_there(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""

        def attempt() -> bytes | None:
            try:
                self._check_local(name, MAX_BYTES)
                return self._fs.cat_file(self._path(name))
            except FileNotFoundError as exc:
                if not is_absence(exc):
                    raise
                return None

        return self.retried("read", name, attempt)

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of many small files, in order, read concurrently."""
        for future in self._under_way(names):
            yield future.result()

    def read_each(self, names: Iterable[str]) -> Iterator[bytes | StorageError]:
        """Like `read_many`, with the error in place of a file that cannot be read."""
        for future in self._under_way(names):
            error = future.exception()
            if error is not None and not isinstance(error, StorageError):
                raise error
            yield error or future.result()

    def _under_way(self, names: Iterable[str]) -> Iterator[Future[bytes]]:
        pool = ThreadPoolExecutor(READERS)
        under_way: deque[Future[bytes]] = deque()
        ahead = 1  # few at first, because some consumers need only the first files
        try:
            for name in names:
                under_way.append(pool.submit(self.read, name))
                if len(under_way) > ahead:
                    yield under_way.popleft()
                    # Bounded, or a slow consumer would fill memory.
                    ahead = min(2 * ahead, 2 * READERS)
            while under_way:
                yield under_way.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a file as a whole; on a local disk, create its parent folders."""
        self.retried("write", name, lambda: self._fs.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist; returns whether it now exists with exactly this content.

        If several processes create one file with different contents, only one succeeds on local disks and on stores
        with conditional writes (S3 and compatible ones); on others, the one whose content a reader then finds.
        """
        path = self._path(name)

        def attempt() -> None:
            if self.is_local:
                create_whole(path, data)
            elif not self._fs.exists(path):
                self._put_new(path, data)

        with suppress(FileExistsError):
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
        return self.retried("read", name, lambda: self._fs.cat_file(self._path(name), start=0, end=size))

    def write_stream(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        """Write a large file piece by piece: `produce(file)`, called again from the start if the store
        fails.

        For object stores this is a multipart upload, so only the current part is in memory.
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
        """Open a file for reading; reads at least `block_size` bytes at a time.

        On remote stores its reads are retried like other requests, and raise `StorageError`.
        """
        path = self._path(name)
        # fsspec's default cache would read 50 MB ahead at every seek, and Parquet readers seek often.
        self.retried("open", name, lambda: self._check_local(name))
        file = self.retried("open", name, lambda: self._fs.open(path, "rb", cache_type="none"))
        return file if self.is_local else io.BufferedReader(RetriedFile(self, name, file), block_size)

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
                if self.is_local:  # for a million markers, fsspec would take ten times as long
                    with os.scandir(path) as found:
                        return [(entry.path, entry.is_dir(), size_of(entry)) for entry in found]
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
        """The same files by their names without the folder."""
        return {file.path.rpartition("/")[2]: file for file in self.files()}

    def listing(self) -> Listing:
        """The same files, and the folders directly in the folder or matching the glob."""

        def attempt() -> tuple[list[dict[str, Any]], bool]:
            fs, path = self._opened
            try:
                info = fs.info(path)
            except FileNotFoundError as exc:
                if not is_absence(exc):
                    raise
                is_glob = any(c in path for c in GLOB_CHARACTERS)
                return list(fs.glob(path, detail=True).values()) if is_glob else [], False
            is_folder = info["type"] == "directory"
            return fs.ls(path, detail=True) if is_folder else [info], is_folder

        found, is_folder = self.retried("list", "", attempt)
        kinds = [kind_of(info) for info in found]
        files = [
            StoredFile(self._url_of(i["name"]), int(i["size"] or 0), stamp_of(i))
            for i, kind in zip(found, kinds, strict=True)
            if kind == "file"
        ]
        urls = [self._url_of(info["name"].rstrip("/")) for info in found]
        folders = {url for url, kind in zip(urls, kinds, strict=True) if kind == "directory"}
        folders.discard(self._url_of(self._path("").rstrip("/")))  # some stores list the folder itself
        others = sorted(url for url, kind in zip(urls, kinds, strict=True) if kind not in ("file", "directory"))
        return Listing(sorted(files, key=lambda file: file.path), sorted(folders), is_folder, others)

    def probe(self) -> None:
        """Write and delete a small object, to find out before the run whether the store accepts the output.

        Raises:
            StorageError: wrong keys, a missing bucket, no permission to write, a disk that is full or
                read-only.
        """
        path = self._path(f".sdbatch-probe-{uuid4().hex}")
        try:
            self.retried("write to", "", lambda: self._fs.pipe_file(path, b"probe"))
        except StorageError:
            with suppress(Exception):  # on a full disk, the file exists without its content
                self._fs.rm_file(path)
            raise
        self.retried("delete from", "", lambda: self._fs.rm_file(path))


def _abandon(file: Any) -> None:
    """Close a partly written file; an object store must not complete its upload."""
    if isinstance(file, AbstractBufferedFile) and not file.closed:
        file.discard()
        file.closed = True
    else:
        file.close()
