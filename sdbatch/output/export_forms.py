"""The formats of exports: one class each, listed in `FORMS`."""

from __future__ import annotations

import io
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from sdbatch.errors import UsageError
from sdbatch.output.json_rows import to_json
from sdbatch.output.keys import EXTENSIONS
from sdbatch.output.layouts import webdataset_tar
from sdbatch.output.manifest import RunRecord
from sdbatch.output.metadata import FOLDER_METADATA, folder_table
from sdbatch.output.stored import StoredFiles, StoredShard
from sdbatch.storage.parquet import parquet_bytes
from sdbatch.storage.store import Store

__all__ = ["FORMS", "Chosen", "Form"]

IDS = ("item_id", "id")  # default id columns of dpg-bench
GRID = 2


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

    def __init__(self, target: Store, record: RunRecord, columns: pa.Schema, id_column: str | None) -> None:
        if id_column is not None and not isinstance(self, DpgBench):
            raise UsageError("--id: only dpg-bench names images by a column; leave it out")
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

    @property
    def left_out(self) -> tuple[str, ...]:
        """The number of omitted items, with the reasons."""
        return tuple(f"{count:,} {reason}" for reason, count in self._reasons.items())

    def _place(self, name: str, image: _Image) -> None:
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
class _Image:
    """An image of a shard: its local file, or its bytes."""

    path: str | None
    data: bytes | None = None

    def read(self) -> bytes:
        if self.data is not None:
            return self.data
        with open(str(self.path), "rb") as file:
            return file.read()


def _images(shard: StoredShard, rows: Sequence[Chosen]) -> Iterator[tuple[Chosen, _Image]]:
    """The chosen images of a shard, in order."""
    if isinstance(shard, StoredFiles) and shard.store.is_local:
        yield from ((chosen, _Image(shard.store.name(chosen.row["file_name"]))) for chosen in rows)
        return
    wanted = {chosen.place: chosen for chosen in rows}
    for place, data in enumerate(shard.images()):
        if place in wanted:
            yield wanted[place], _Image(None, data)


class ImageFolder(Form):
    """`NNNNN/KEY.png` with `NNNNN/metadata.parquet`, as Hugging Face's imagefolder reads it."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        metadata = f"{shard.name}/{FOLDER_METADATA}"
        if self._target.exists(metadata):
            return 0
        for chosen, image in _images(shard, rows):
            self._place(f"{shard.name}/{chosen.row['key']}{self._extension}", image)
        table = _table(rows, self._columns)
        names = [f"{chosen.row['key']}{self._extension}" for chosen in rows]
        self._target.replace(metadata, parquet_bytes(folder_table(table, names)))
        return 1


class WebDataset(Form):
    """`NNNNN.tar`: image, `.txt` and `.json` of each."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        name = f"{shard.name}.tar"
        if self._target.exists(name):
            return 0
        tar = io.BytesIO()
        webdataset_tar(tar, ((chosen.row, image.read()) for chosen, image in _images(shard, rows)), self._extension)
        self._target.replace(name, tar.getvalue())
        return 1


class GenEval(Form):
    """`00000/metadata.jsonl` and `00000/samples/0000.png`, a folder per row of the prompt table (Ghosh et al. 2023)."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        folders: dict[int, list[Chosen]] = defaultdict(list)
        for chosen in rows:
            folders[chosen.table_row].append(chosen)
        missing = {row for row in folders if not self._target.exists(f"{row:05d}/metadata.jsonl")}
        for chosen, image in _images(shard, [chosen for chosen in rows if chosen.table_row in missing]):
            self._place(f"{chosen.table_row:05d}/samples/{chosen.image:04d}.png", _as_png(image, self._extension))
        for row in sorted(missing):
            first = folders[row][0].row
            # The evaluation tests whether a key exists, not its value.
            own = _without_nulls({name: first[name] for name in self._own})
            self._target.replace(f"{row:05d}/metadata.jsonl", to_json(own) + b"\n")
        return len(missing)


class DpgBench(Form):
    """`ID.png`, a 2×2 grid of a row's four images, or its single image (ELLA, Hu et al. 2024)."""

    def __init__(self, target: Store, record: RunRecord, columns: pa.Schema, id_column: str | None) -> None:
        super().__init__(target, record, columns, id_column)
        found = [name for name in IDS if name in columns.names] if id_column is None else [id_column]
        if not found or found[0] not in columns.names:
            named = f"no column {id_column!r}" if id_column else "neither a column 'item_id' nor 'id'"
            raise UsageError(f"--for dpg-bench: the output has {named}; choose the column of names with --id COLUMN")
        if self._images not in (1, GRID**2):
            raise UsageError(f"--for dpg-bench: needs an output with 1 or 4 images per prompt, not {self._images}")
        self._id = found[0]

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        items: dict[int, list[Chosen]] = defaultdict(list)
        for chosen in rows:
            items[chosen.table_row].append(chosen)
        whole = {row for row, images in items.items() if len(images) == self._images}
        if len(whole) < len(items):
            self._reasons[f"items lack some of their {self._images} images"] += len(items) - len(whole)
        names = {row: self._name(items[row][0].row[self._id]) for row in sorted(whole)}
        missing = {row for row, name in names.items() if not self._target.exists(name)}
        held: dict[int, list[_Image]] = defaultdict(list)
        for chosen, image in _images(shard, [chosen for chosen in rows if chosen.table_row in missing]):
            held[chosen.table_row].append(image)
            if len(held[chosen.table_row]) == self._images:
                images = held.pop(chosen.table_row)
                one = _as_png(images[0], self._extension) if len(images) == 1 else _grid(images)
                self._place(names[chosen.table_row], one)
        return len(missing)

    def _name(self, identity: Any) -> str:
        text = str(identity)
        if identity is None or not text or text.startswith(".") or not text.isprintable() or set(text) & set("/\\"):
            raise UsageError(f"--id {self._id}: {identity!r} is not a valid name of a file")
        return f"{text}.png"


def _as_png(image: _Image, extension: str) -> _Image:
    return image if extension == ".png" else _png(Image.open(io.BytesIO(image.read())).convert("RGB"))


def _grid(images: Sequence[_Image]) -> _Image:
    tiles = [Image.open(io.BytesIO(image.read())).convert("RGB") for image in images]
    width, height = tiles[0].size
    grid = Image.new("RGB", (GRID * width, GRID * height))
    for place, tile in enumerate(tiles):
        grid.paste(tile, (place % GRID * width, place // GRID * height))
    return _png(grid)


def _png(picture: Image.Image) -> _Image:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return _Image(None, file.getvalue())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _table(rows: Sequence[Chosen], columns: pa.Schema) -> pa.Table:
    arrays = {
        column.name: pa.array([chosen.row.get(column.name) for chosen in rows], column.type) for column in columns
    }
    return pa.table(arrays)


FORMS: Mapping[str, type[Form]] = {
    "imagefolder": ImageFolder,
    "webdataset": WebDataset,
    "geneval": GenEval,
    "dpg-bench": DpgBench,
}
