"""Pictures that a table's cells name or hold: found, and read while other rows are made."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    """A picture of a table's cell.

    Attributes:
        path: by which the cell names it; None where it only holds its bytes.
    """

    def __init__(self, content: bytes, path: str | None) -> None:
        super().__init__(content, path)
        self.path = path


class UnreadablePicture(TablePicture):
    """One that is not there, or cannot be read. Whoever looks at it learns why."""

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(b"", path)
        self._reason = reason

    def _content(self) -> bytes:
        raise PictureError(self._reason)

    def _opened(self) -> Any:
        raise PictureError(self._reason)


UNREAD = Picture(b"", "a picture that has not been read")
"""Stands for any picture while a run is planned."""


def unread(request: Request, names: Collection[str]) -> Request:
    """The request with a picture that nobody has read in the place of each of its pictures."""
    cells = {name: request.extra[name] for name in names if request.extra.get(name) is not None}
    found = {name: (UNREAD,) * len(cell) if isinstance(cell, tuple) else UNREAD for name, cell in cells.items()}
    return replace(request, extra=FrozenMapping({**request.extra, **found})) if found else request


def picture_names(fields: Iterable[Field]) -> tuple[str, ...]:
    """Those of the settings that are pictures."""
    return tuple(field.name for field in fields if isinstance(field.kind, kinds.Picture))


def paths_in(value: Any) -> list[str]:
    """The paths that an option for pictures names: one, or those of a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, str)]


def folder_of(path: str) -> str:
    """The folder that holds a file of the table; "" where the prompt itself is given."""
    return path.rpartition("/")[0] if "/" in path else ""


@dataclass(frozen=True)
class PictureReader:
    """Reads the pictures of rows.

    Attributes:
        names: the settings that are pictures.
        options: fsspec storage options of the table.
        may_leave: whether a cell may name any place: a URL of the web, an absolute path.
        given: what options name; these may always be read.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    may_leave: bool = False
    given: frozenset[str] = frozenset()

    def read(self, request: Request, folder: str) -> Request:
        """The request with its pictures read.

        Args:
            folder: that holds the file which holds the row.
        """
        cells = {name: request.extra[name] for name in self.names if request.extra.get(name) is not None}
        pictures = {name: self._pictures(cell, folder) for name, cell in cells.items()}
        return replace(request, extra=FrozenMapping({**request.extra, **pictures})) if pictures else request

    def picture(self, cell: Any, folder: str) -> TablePicture:
        """The picture that a cell names or holds: text, bytes, or a mapping of both, of which the bytes go first."""
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (None, cell)
        if isinstance(path, bytes):
            content, path = path, None
        if content is not None:
            return TablePicture(content, path)
        if not path:
            return UnreadablePicture(None, "a picture without bytes and without a path")
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
        return Store(place, self.options if is_beside else {}).read("", most=MAX_BYTES)

    def _place(self, path: str, folder: str) -> str:
        if path in self.given:
            return path
        protocol = protocol_of(path)
        if protocol == "data":
            raise PictureError("a picture as a data: URL; give its bytes, or a path")
        goes_elsewhere = protocol in WEB if protocol else "://" in path or posixpath.isabs(path)
        if goes_elsewhere and not self.may_leave:
            raise PictureError(f"{path}: URLs of the web and absolute paths are read with --allow-image-urls only")
        if protocol or goes_elsewhere:
            return path
        return f"{folder}/{path}" if folder else path


class RowReader(Protocol):
    """Reads files that rows name."""

    def read(self, request: Request, folder: str) -> Request: ...


class PicturesAhead(Sequence[Request]):
    """The requests of a shard, whose pictures are read in threads, some requests ahead of who takes them.

    Args:
        requests: each with the folder that its row's file lies in.
        readers: of their pictures, and of whatever else they name.
    """

    def __init__(self, requests: Sequence[tuple[Request, str]], readers: Sequence[RowReader]) -> None:
        self._requests = requests
        self._readers = readers

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: Any) -> Any:
        return self._read(*self._requests[index])

    def __iter__(self) -> Iterator[Request]:
        # The images of a row have the same settings, the very same object.
        waiting = (list(images) for _, images in groupby(self._requests, key=lambda image: id(image[0].extra)))
        with ThreadPoolExecutor(THREADS, thread_name_prefix="pictures") as pool:
            under_way: deque[Future[list[Request]]] = deque(
                pool.submit(self._row, images) for images in islice(waiting, AHEAD)
            )
            while under_way:
                requests = under_way.popleft().result()
                under_way += (pool.submit(self._row, images) for images in islice(waiting, 1))
                yield from requests

    def _row(self, images: list[tuple[Request, str]]) -> list[Request]:
        """The requests of one row of the table, whose files are read once."""
        read = self._read(*images[0])
        return [replace(request, extra=read.extra) for request, _ in images]

    def _read(self, request: Request, folder: str) -> Request:
        for reader in self._readers:
            request = reader.read(request, folder)
        return request
