"""What the formats of exports have in common."""

from __future__ import annotations

import io
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from sdbatch.errors import UsageError
from sdbatch.output.dataset import decoded_image
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
        path = self._target.name(name)
        if image.data is not None or not self._target.is_local:
            return self._target.replace(name, image.read())
        source = image.file()
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
    """An image of a shard: a file of layout `files` on this machine, or its bytes."""

    shard: StoredShard
    row: Mapping[str, Any]
    data: bytes | None = None

    def file(self) -> str:
        """The path of its regular file. Raises `StorageError` if it is anything else."""
        return self.shard.store.local_file(self.row["file_name"])

    def read(self) -> bytes:
        return self.shard.store.read(self.row["file_name"]) if self.data is None else self.data

    def picture(self) -> Image.Image:
        """Its pixels. Raises `StorageError` if it does not decode."""
        return decoded_image(self.shard, self.row, self.read()).convert("RGB")

    def replaced(self, picture: Image.Image, form: str, **options: Any) -> StoredImage:
        """A picture that is exported in its place, in one of Pillow's formats."""
        file = io.BytesIO()
        picture.save(file, form, **options)
        return StoredImage(self.shard, self.row, file.getvalue())


def stored_images(shard: StoredShard, rows: Sequence[Chosen]) -> Iterator[tuple[Chosen, StoredImage]]:
    """The chosen images of a shard, in order."""
    if isinstance(shard, StoredFiles) and shard.store.is_local:
        yield from ((chosen, StoredImage(shard, chosen.row)) for chosen in rows)
        return
    wanted = {chosen.place: chosen for chosen in rows}
    for place, data in enumerate(shard.images()):
        if place in wanted:
            yield wanted[place], StoredImage(shard, wanted[place].row, data)
