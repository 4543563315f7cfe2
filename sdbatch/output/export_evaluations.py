"""Exports for published evaluations of models, as their loaders read them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from sdbatch.errors import UsageError
from sdbatch.output.export_form import Chosen, Form, StoredImage, stored_images
from sdbatch.output.json_rows import to_json
from sdbatch.output.manifest import RunRecord
from sdbatch.output.stored import StoredShard
from sdbatch.storage.store import Store

__all__ = ["DpgBench", "GenEval", "HpsV2", "T2ICompBench"]

IDS = ("item_id", "id")  # default id columns of dpg-bench
GRID = 2
STYLE, FILE, ROW = "style", "source_file", "source_row"
JPEG_QUALITY = 95
MAX_NAME_BYTES = 255  # of most file systems


class GenEval(Form):
    """`00000/metadata.jsonl` and `00000/samples/0000.png`, a folder per row of the prompt table (Ghosh et al. 2023)."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        folders: dict[int, list[Chosen]] = defaultdict(list)
        for chosen in rows:
            folders[chosen.table_row].append(chosen)
        missing = {row for row in folders if not self._target.exists(f"{row:05d}/metadata.jsonl")}
        for chosen, image in stored_images(shard, [chosen for chosen in rows if chosen.table_row in missing]):
            self.place(f"{chosen.table_row:05d}/samples/{chosen.image:04d}.png", _as_png(image, self._extension))
        for row in sorted(missing):
            first = folders[row][0].row
            # The evaluation tests whether a key exists, not its value.
            own = _without_nulls({name: first[name] for name in self._own})
            self._target.replace(f"{row:05d}/metadata.jsonl", to_json(own) + b"\n")
        return len(missing)


class DpgBench(Form):
    """`ID.png`, a 2×2 grid of a row's four images, or its single image (ELLA, Hu et al. 2024)."""

    takes_id = True

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
        held: dict[int, list[StoredImage]] = defaultdict(list)
        for chosen, image in stored_images(shard, [chosen for chosen in rows if chosen.table_row in missing]):
            held[chosen.table_row].append(image)
            if len(held[chosen.table_row]) == self._images:
                images = held.pop(chosen.table_row)
                one = _as_png(images[0], self._extension) if len(images) == 1 else _grid(images)
                self.place(names[chosen.table_row], one)
        return len(missing)

    def _name(self, identity: Any) -> str:
        return f"{_file_name(identity, self._id)}.png"


class HpsV2(Form):
    """`STYLE/00000.jpg`, numbered by the order of each style's prompts (HPS v2, Wu et al. 2023).

    The style is the column `style`, or the name of the prompt's file, as the prompts are published: `anime.json`, ….
    """

    takes_id = has_note_within = True

    def __init__(self, target: Store, record: RunRecord, columns: pa.Schema, id_column: str | None) -> None:
        super().__init__(target, record, columns, id_column)
        if self._images != 1:
            raise UsageError(f"--for hpsv2: needs an output with 1 image per prompt, not {self._images}")
        self._style = id_column or (STYLE if STYLE in columns.names else FILE)
        if self._style not in columns.names or ROW not in columns.names:
            raise UsageError(f"--for hpsv2: the output has no column {self._style!r}; choose that of styles with --id")
        self._counts: Counter[Any] = Counter()
        self._shards = 0
        self._numbers: dict[str, int] = {}

    def look(self, shard: StoredShard, metadata: pa.Table) -> None:
        if self._style == FILE:
            self._numbers = dict(zip(metadata["key"].to_pylist(), metadata[ROW].to_pylist(), strict=True))
            return
        if int(shard.name) != self._shards:
            raise UsageError(
                f"--for hpsv2: shard {self._shards:05d} is missing; finish the output: files are numbered by prompt"
            )
        self._shards += 1
        self._numbers = {}
        for key, style in zip(metadata["key"].to_pylist(), metadata[self._style].to_pylist(), strict=True):
            self._numbers[key] = self._counts[style]
            self._counts[style] += 1

    def note_folder(self, rows: Sequence[Chosen]) -> str:
        return self._folder(rows[0])  # the evaluation takes everything in DEST for a style

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        names = {chosen.place: f"{self._folder(chosen)}/{self._numbers[chosen.row['key']]:05d}.jpg" for chosen in rows}
        missing = [chosen for chosen in rows if not self._target.exists(names[chosen.place])]
        for chosen, image in stored_images(shard, missing):
            self.place(names[chosen.place], _as_jpeg(image, self._extension))
        return len(missing)

    def _folder(self, chosen: Chosen) -> str:
        style = chosen.row[self._style]
        if self._style == FILE:
            style = str(style).rpartition("/")[2].partition(".")[0]
        return _file_name(style, self._style)


class T2ICompBench(Form):
    """`samples/PROMPT_000000.png`; the evaluation reads the prompt from the name (Huang et al. 2023)."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        names = {chosen.place: self._name(chosen) for chosen in rows}
        if unnamed := sum(name is None for name in names.values()):
            self._reasons["images have prompts that cannot be in a file's name (/, _, or too long)"] += unnamed
        missing = [
            chosen for chosen in rows if (name := names[chosen.place]) is not None and not self._target.exists(name)
        ]
        for chosen, image in stored_images(shard, missing):
            self.place(str(names[chosen.place]), _as_png(image, self._extension))
        return len(missing)

    def _name(self, chosen: Chosen) -> str | None:
        prompt = str(chosen.row["prompt"])
        name = f"{prompt}_{chosen.table_row * self._images + chosen.image:06d}.png"
        is_one = prompt.isprintable() and not set(prompt) & set("/\\_")
        return f"samples/{name}" if is_one and len(name.encode()) <= MAX_NAME_BYTES else None


def _file_name(identity: Any, column: str) -> str:
    """A value that names a file or a folder. Raises `UsageError` if it cannot."""
    text = str(identity)
    if identity is None or not text or text.startswith(".") or not text.isprintable() or set(text) & set("/\\"):
        raise UsageError(f"--id {column}: {identity!r} is not a valid name of a file")
    return text


def _as_jpeg(image: StoredImage, extension: str) -> StoredImage:
    if extension == ".jpg":
        return image
    return image.replaced(image.picture(), "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")


def _as_png(image: StoredImage, extension: str) -> StoredImage:
    return image if extension == ".png" else image.replaced(image.picture(), "PNG")


def _grid(images: Sequence[StoredImage]) -> StoredImage:
    tiles = [image.picture() for image in images]
    width, height = tiles[0].size
    grid = Image.new("RGB", (GRID * width, GRID * height))
    for place, tile in enumerate(tiles):
        grid.paste(tile, (place % GRID * width, place // GRID * height))
    return images[0].replaced(grid, "PNG")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
