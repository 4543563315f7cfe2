"""What the formats of exports have in common."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sdbatch.errors import UsageError
from sdbatch.output.keys import EXTENSIONS
from sdbatch.output.manifest import RunRecord
from sdbatch.output.stored import StoredFiles, StoredShard
from sdbatch.storage.store import Store

__all__ = ["Chosen", "Form", "StoredImage", "stored_images"]


@dataclass(frozen=True)
class Chosen:
    """An image that is exported.

    Attributes:
        row: its metadata, with scores.
        place: its position among the finished images of its shard.
        table_row: its row in the whole prompt table.
        image: its number among the row's images, from 0.
    """

    row: Mapping[str, Any]
    place: int
    table_row: int
    image: int


class Form(ABC):
    """Writes the images of one shard after another.

    Args:
        target: the folder to fill.
        record: the output's record.
        columns: the columns of its metadata, with scores.
        id_column: the column that names images, for forms that use one.

    Raises:
        UsageError: a column does not exist.
    """

    takes_id = False
    has_note_within = False  # the export's own note is in one of the folders, not in DEST

    def __init__(self, target: Store, record: RunRecord, columns: pa.Schema, id_column: str | None) -> None:
        if id_column is not None and not self.takes_id:
            raise UsageError("--id: only dpg-bench and hpsv2 name images by a column; leave it out")
        self._target = target
        self._images = record.settings["images_per_prompt"]
        self._extension = EXTENSIONS[record.settings["image_format"]]
        # The prompt table's own columns come before the key.
        self._own = [*columns.names[: columns.names.index("key")], "prompt"]
        self._columns = columns
        self._reasons: Counter[str] = Counter()

    @abstractmethod
    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        """Write missing files; returns the number of files, folders or tars written."""

    def look(self, shard: StoredShard, metadata: pa.Table) -> None:
        """See the metadata of all images of a shard, failed ones too, before `write`."""
        return

    def note_folder(self, rows: Sequence[Chosen]) -> str:
        """The folder for the export's own note: DEST itself, or one for some of these images."""
        return ""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The number of omitted items, with the reasons."""
        return tuple(f"{count:,} {reason}" for reason, count in self._reasons.items())

    def place(self, name: str, image: StoredImage) -> None:
        """Write an image's file, as a hard link if possible."""
        path, source = self._target.name(name), image.path
        if source is None or not self._target.is_local:
            return self._target.replace(name, image.read())
        with self._target.mapped("write", name):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with suppress(FileExistsError):  # left by an interrupted export
                try:
                    os.link(source, path)
                except FileExistsError:
                    raise
                except OSError:  # another disk, or a file system without links
                    shutil.copyfile(source, f"{path}.part")
                    os.replace(f"{path}.part", path)
        return None


@dataclass(frozen=True)
class StoredImage:
    """An image of a shard: its local file, or its bytes."""

    path: str | None
    data: bytes | None = None

    def read(self) -> bytes:
        if self.data is not None:
            return self.data
        with open(str(self.path), "rb") as file:
            return file.read()


def stored_images(shard: StoredShard, rows: Sequence[Chosen]) -> Iterator[tuple[Chosen, StoredImage]]:
    """The chosen images of a shard, in order."""
    if isinstance(shard, StoredFiles) and shard.store.is_local:
        yield from ((chosen, StoredImage(shard.store.name(chosen.row["file_name"]))) for chosen in rows)
        return
    wanted = {chosen.place: chosen for chosen in rows}
    for place, data in enumerate(shard.images()):
        if place in wanted:
            yield wanted[place], StoredImage(None, data)
