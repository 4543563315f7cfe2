"""Checking one finished shard: its marker, its metadata, and each of its images."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sdbatch.errors import StorageError
from sdbatch.output.encoding import expected_parameters, read_parameters
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import EXTENSIONS, image_key, marker_name
from sdbatch.output.stats import ShardStats
from sdbatch.output.stored import StoredFiles, StoredShard, open_shard
from sdbatch.storage import Store

__all__ = ["Expected", "ShardCheck", "check_shard"]

MOST_PROBLEMS = 20  # named, of each shard


@dataclass(frozen=True)
class Expected:
    """What an output should hold.

    Attributes:
        shard_rows: rows of each shard, by its number.
        images_per_prompt: images a row.
        layout, image_format: how they are written.
        model, model_hash: what made them.
    """

    shard_rows: tuple[int, ...]
    images_per_prompt: int
    layout: str
    image_format: str
    model: str
    model_hash: str | None

    @property
    def images(self) -> int:
        return sum(self.shard_rows) * self.images_per_prompt


@dataclass(frozen=True)
class ShardCheck:
    """What is wrong with a shard, and the names of its files that do not belong there."""

    shard: int
    images: int
    problems: tuple[str, ...]
    surplus: tuple[str, ...]


def check_shard(store: Store, number: int, expected: Expected) -> ShardCheck:
    """Looks at everything of a shard. Whatever cannot be read is a problem of the shard, not an error."""
    problems: list[str] = []
    surplus: list[str] = []
    images = 0
    try:
        shard = open_shard(store, number)
        rows = {row["key"]: row for row in python_rows(shard.metadata)}
        images = len(rows)
        problems += _check_metadata(shard, list(rows.values()), expected)
        problems += _check_files(shard, rows, expected, surplus)
    except StorageError as exc:
        problems.append(str(exc))
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"and {len(problems) - MOST_PROBLEMS} more"]
    return ShardCheck(number, images, tuple(problems), tuple(surplus))


def _check_metadata(shard: StoredShard, rows: list[Mapping[str, Any]], expected: Expected) -> Iterator[str]:
    images = expected.shard_rows[shard.shard] * expected.images_per_prompt
    name = marker_name(shard.shard)
    stats = ShardStats.from_json(shard.store.read(name), shard.store.name(name))
    failed = [row for row in rows if row["status"] == "failed"]
    if [row["key"] for row in rows] != [image_key(shard.shard, index) for index in range(images)]:
        yield f"the metadata has not the {images} keys of this shard, in order"
    if (stats.images, stats.ok, stats.failed) != (images, images - len(failed), len(failed)):
        yield (
            f"the marker counts {stats.images} images, {stats.ok} ok and {stats.failed} failed; "
            f"the metadata {len(rows)}, {len(rows) - len(failed)} and {len(failed)}"
        )
    for row in rows:
        if row["status"] not in ("ok", "failed") or (row["status"] == "failed") != (row["error"] is not None):
            yield f"{row['key']}: status is {row['status']!r}, error is {row['error']!r}"
        if row["model"] != expected.model:
            yield f"{row['key']}: the model is {row['model']!r}, not the run's {expected.model!r}"


def _check_files(
    shard: StoredShard, rows: Mapping[str, Mapping[str, Any]], expected: Expected, surplus: list[str]
) -> Iterator[str]:
    extension = EXTENSIONS[expected.image_format]
    images = {f"{key}{extension}": row for key, row in rows.items() if row["status"] == "ok"}
    missing = {*images, *shard.companions()}
    for name, data in shard.files():
        if name not in missing:
            yield f"{name}: does not belong there"
            if isinstance(shard, StoredFiles):
                surplus.append(f"{shard.name}/{name}")
        elif name in images and (problem := check_image(data, images[name], expected)):
            yield f"{name}: {problem}"
        elif name not in images and not shard.matches(name, data):
            yield f"{name}: differs from the metadata"
        missing.discard(name)
    for name in sorted(missing):
        yield f"{name}: is missing"


def check_image(data: bytes, row: Mapping[str, Any], expected: Expected) -> str | None:
    """What is wrong with an image file, by its metadata row; None if nothing is."""
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "its sha256 differs from the metadata's"
    try:
        image = Image.open(io.BytesIO(data), formats=[expected.image_format.upper()])
        if image.size != (row["width"], row["height"]):  # before it is decoded: it may claim to be huge
            return f"is {image.width}x{image.height}; the metadata has {row['width']}x{row['height']}"
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        return f"does not decode ({exc})"
    written = expected_parameters({**row, "model_hash": expected.model_hash}, expected.image_format)
    return None if read_parameters(image) == written else "its embedded parameters differ from the metadata"
