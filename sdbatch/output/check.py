"""Checks one finished shard: its marker, its metadata, and each of its images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.errors import StorageError
from sdbatch.fields import Field
from sdbatch.output.encoding import decoded, expected_parameters, read_parameters
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import EXTENSIONS, image_key
from sdbatch.output.markers import read_marker
from sdbatch.output.stored import StoredFiles, StoredShard, open_shard
from sdbatch.prompts.shards import Cut
from sdbatch.storage.store import Store

__all__ = ["Expected", "ShardCheck", "check_shard"]

MAX_PROBLEMS = 20  # named, of each shard
ENTRY_NAME = re.compile(r" \('[^']*'\)")  # in the text of a map's type


@dataclass(frozen=True)
class Expected:
    """The expected content of an output.

    Attributes:
        cut: which rows each shard holds.
        images_per_prompt: images per row.
        layout, image_format: how they are written.
        model, model_hash: of the model that made them.
        run: the identity that each marker carries; None if they carry none.
        fields: the settings that the metadata has columns for.
        carried: name and type of each column of the table in the metadata; None if the manifest does not record them.
    """

    cut: Cut
    images_per_prompt: int
    layout: str
    image_format: str
    model: str
    model_hash: str | None
    run: str | None = None
    fields: tuple[Field, ...] = ROW_FIELDS
    carried: tuple[tuple[str, str], ...] | None = None

    @property
    def images(self) -> int:
        return self.cut.rows * self.images_per_prompt


@dataclass(frozen=True)
class ShardCheck:
    """The problems of a shard, and the names of unexpected files."""

    shard: int
    images: int
    problems: tuple[str, ...]
    surplus: tuple[str, ...]


def check_shard(store: Store, number: int, expected: Expected) -> ShardCheck:
    """Check all files of a shard. A file that cannot be read is a problem of the shard, not an error."""
    problems: list[str] = []
    surplus: list[str] = []
    images = 0
    try:
        shard = open_shard(store, number)
        listed: list[Mapping[str, Any]] = list(python_rows(shard.metadata))
        rows = {row["key"]: row for row in listed}
        images = len(rows)
        problems += _check_metadata(shard, list(rows.values()), expected)
        problems += _check_files(shard, rows, expected, surplus)
        problems += _check_kept_pictures(shard, listed)
    except StorageError as exc:
        problems.append(str(exc))
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
    return ShardCheck(number, images, tuple(problems), tuple(surplus))


def _check_metadata(shard: StoredShard, rows: list[Mapping[str, Any]], expected: Expected) -> Iterator[str]:
    images = expected.cut.span(shard.shard)[1] * expected.images_per_prompt
    stats = read_marker(shard.store, shard.shard)
    if stats.run != expected.run:
        yield f"the marker is of run {stats.run}, not of this one"
    if (problem := _other_columns(shard, expected)) is not None:
        yield problem
    failed = [row for row in rows if row["status"] == "failed"]
    if [row["key"] for row in rows] != [image_key(shard.shard, index) for index in range(images)]:
        yield f"the metadata does not have the {images} keys of this shard, in order"
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


def _other_columns(shard: StoredShard, expected: Expected) -> str | None:
    """What is wrong with the table's own columns, which come before `key`."""
    schema = shard.metadata.schema
    found = tuple((field.name, str(field.type)) for field in list(schema)[: schema.get_field_index("key")])
    if expected.carried is None or _unnamed(found) == _unnamed(expected.carried):
        return None
    shown = [", ".join(f"{name} ({kind})" for name, kind in columns) or "none" for columns in (found, expected.carried)]
    return f"the metadata has the table's columns {shown[0]}; run.json says {shown[1]}"


def _unnamed(columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Columns and types without the names that Parquet gives the entries of maps and the items of lists."""
    return [(name, re.sub(r"list<\w+: ", "list<item: ", ENTRY_NAME.sub("", kind))) for name, kind in columns]


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


def _check_kept_pictures(shard: StoredShard, rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for row, kept in zip(rows, shard.kept_pictures(), strict=True):
        for name, picture in kept.items():
            found = [_digest(one) for one in picture] if isinstance(picture, list) else _digest(picture)
            if found != row.get(f"{name}_sha256"):
                yield f"{row['key']}: the picture in {name} differs from {name}_sha256"


def _digest(picture: Mapping[str, Any] | None) -> str | None:
    return hashlib.sha256(picture["bytes"]).hexdigest() if picture and picture["bytes"] is not None else None


def check_image(data: bytes, row: Mapping[str, Any], expected: Expected) -> str | None:
    """The problem of an image file, compared with its metadata row; None if there is none."""
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "its sha256 differs from the metadata's"
    try:
        image = decoded(data, (row["width"], row["height"]), (expected.image_format.upper(),))
    except ValueError as exc:
        return str(exc)
    labelled = {**row, "model_hash": expected.model_hash}
    written = expected_parameters(labelled, expected.image_format, expected.fields)
    return None if read_parameters(image) == written else "its embedded parameters differ from the metadata"
