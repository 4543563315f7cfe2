"""Reads the pictures that a table's cells name or contain, while other rows are sampled."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any, Protocol

from sdbatch import kinds
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.errors import PictureError, StorageError, UsageError
from sdbatch.fields import Field, FrozenMapping
from sdbatch.storage.addresses import protocol_of
from sdbatch.storage.store import Store

__all__ = [
    "PictureReader",
    "PicturesAhead",
    "Reading",
    "RowReader",
    "TablePicture",
    "folder_of",
    "paths_in",
    "picture_names",
    "unread",
]

MAX_BYTES = 256 << 20
THREADS, AHEAD = 8, 32
WEB = ("http", "https", "ftp")


class TablePicture(Picture):
    """A picture from a table's cell.

    Attributes:
        path: the path in the cell; None if the cell has only bytes.
    """

    def __init__(self, content: bytes, path: str | None) -> None:
        super().__init__(content, path)
        self.path = path

    @property
    def cell(self) -> dict[str, Any]:
        """The picture as a cell of a table: its bytes, None if it could not be read, and its path."""
        return {"bytes": self._content(), "path": self.path}


class UnreadablePicture(TablePicture):
    """A picture that is missing or cannot be read; any use of it raises the reason."""

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(b"", path)
        self._reason = reason

    @property
    def cell(self) -> dict[str, Any]:
        return {"bytes": None, "path": self.path}

    def _content(self) -> bytes:
        raise PictureError(self._reason)

    def _opened(self) -> Any:
        raise PictureError(self._reason)


UNREAD = Picture(b"", "a picture that has not been read")
"""Placeholder for any picture while a run is planned."""


def unread(request: Request, names: Collection[str]) -> Request:
    """The request with a placeholder for each of its pictures."""
    cells = {name: request.extra[name] for name in names if request.extra.get(name) is not None}
    found = {name: (UNREAD,) * len(cell) if isinstance(cell, tuple) else UNREAD for name, cell in cells.items()}
    return replace(request, extra=FrozenMapping({**request.extra, **found})) if found else request


def picture_names(fields: Iterable[Field]) -> tuple[str, ...]:
    """The settings that are pictures."""
    return tuple(field.name for field in fields if isinstance(field.kind, kinds.Picture))


def paths_in(value: Any) -> list[str]:
    """The paths in an option for pictures: one, or those of a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, str)]


def folder_of(path: str) -> str:
    """The folder of a table's file; "" if the table is a prompt."""
    return path.rpartition("/")[0] if "/" in path else ""


@dataclass(frozen=True)
class PictureReader:
    """Reads the pictures of rows.

    Attributes:
        names: the settings that are pictures.
        options: fsspec storage options of the table.
        may_leave: whether a cell may contain a web URL or an absolute path.
        given: paths from options, which may always be read.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    may_leave: bool = False
    given: frozenset[str] = frozenset()

    def read(self, request: Request, folder: str) -> Request:
        """The request with its pictures read.

        Args:
            folder: the folder of the row's file.
        """
        cells = {name: request.extra[name] for name in self.names if request.extra.get(name) is not None}
        pictures = {name: self._pictures(cell, folder) for name, cell in cells.items()}
        return replace(request, extra=FrozenMapping({**request.extra, **pictures})) if pictures else request

    def picture(self, cell: Any, folder: str) -> TablePicture:
        """The picture of a cell: a path, bytes, or a mapping of both, in which bytes take precedence."""
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (None, cell)
        if isinstance(path, bytes):
            content, path = path, None
        if content is not None:
            return TablePicture(content, path)
        if not path:
            return UnreadablePicture(None, "a picture with neither bytes nor a path")
        try:
            return TablePicture(self._content(path, folder), path)
        except (StorageError, UsageError, PictureError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            return UnreadablePicture(path, reason if path in reason else f"{path}: {reason}")

    def _pictures(self, cell: Any, folder: str) -> Any:
        is_list = isinstance(cell, list | tuple)
        return tuple(self.picture(one, folder) for one in cell) if is_list else self.picture(cell, folder)

    def _content(self, path: str, folder: str) -> bytes:
        place = self._place(path, folder)
        scheme, _, _ = place.partition("://")
        is_beside = "://" not in place or folder.startswith(f"{scheme}://")
        return Store(place, self.options if is_beside else {}).read("", max_bytes=MAX_BYTES)

    def _place(self, path: str, folder: str) -> str:
        if path in self.given:
            return path
        protocol = protocol_of(path)
        if protocol == "data":
            raise PictureError("a picture as a data: URL; use its bytes or a path")
        goes_elsewhere = protocol in WEB if protocol else "://" in path or posixpath.isabs(path)
        if goes_elsewhere and not self.may_leave:
            raise PictureError(f"{path}: web URLs and absolute paths are only read with --allow-image-urls")
        if protocol or goes_elsewhere:
            return path
        return f"{folder}/{path}" if folder else path


class RowReader(Protocol):
    """Reads files named by rows."""

    def read(self, request: Request, folder: str) -> Request: ...


class PicturesAhead(Sequence[Request]):
    """The requests of a shard; threads read their pictures some requests ahead of the consumer.

    Args:
        requests: the requests, each with the folder of its row's file.
        readers: readers of pictures and other files that rows name.
    """

    def __init__(self, requests: Sequence[tuple[Request, str]], readers: Sequence[RowReader]) -> None:
        self._requests = requests
        self._readers = readers

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: Any) -> Any:
        return self._read(*self._requests[index])

    def __iter__(self) -> Reading:
        """Start to read ahead at once, before the first request is taken."""
        # All images of a row share one settings object.
        rows = (list(images) for _, images in groupby(self._requests, key=lambda image: id(image[0].extra)))
        return Reading(rows, self._row)

    def _row(self, images: list[tuple[Request, str]]) -> list[Request]:
        """The requests of one row; its files are read once."""
        read = self._read(*images[0])
        return [replace(request, extra=read.extra) for request, _ in images]

    def _read(self, request: Request, folder: str) -> Request:
        for reader in self._readers:
            request = reader.read(request, folder)
        return request


class Reading(Iterator[Request]):
    """Requests whose files threads read ahead, in order."""

    def __init__(
        self, rows: Iterator[list[tuple[Request, str]]], read: Callable[[list[tuple[Request, str]]], list[Request]]
    ) -> None:
        self._rows = rows
        self._read = read
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self._under_way = deque(self._pool.submit(read, images) for images in islice(rows, AHEAD))
        self._read_already: deque[Request] = deque()

    def __next__(self) -> Request:
        while not self._read_already:
            if not self._under_way:
                self._pool.shutdown(wait=False)
                raise StopIteration
            self._read_already += self._under_way.popleft().result()
            self._under_way += (self._pool.submit(self._read, images) for images in islice(self._rows, 1))
        return self._read_already.popleft()

    @property
    def is_ready(self) -> bool:
        """Whether the next request needs no waiting."""
        return bool(self._read_already) or not self._under_way or self._under_way[0].done()

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=False, cancel_futures=True)
