"""Writes one shard: its images as they are made, its metadata at the end, and its marker last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.output.encoding import encode
from sdbatch.output.keys import EXTENSIONS, image_key, marker_name
from sdbatch.output.layouts import LAYOUTS
from sdbatch.output.metadata import Outcome, metadata_schema, metadata_table
from sdbatch.output.stats import ShardStats, count_reasons
from sdbatch.output.watermark import lack_of_room, watermarked
from sdbatch.prompts import Columns, PromptRow
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store

__all__ = ["ModelLabel", "ShardWriter"]


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """The model as described in the output: its name, its hash, and its default size."""

    name: str
    hash: str | None
    height: int
    width: int


class ShardWriter:
    """Writes a shard.

    Except for the marker's seconds and notes, the files depend only on the arguments and the images, not
    on the order in which images are added.

    Args:
        store: the output folder.
        shard: the shard's number.
        table: its rows of the prompt table, as read.
        rows: the same rows, parsed; `images_per_prompt` images each, numbered row by row.
        columns: the meaning of the table's columns.
        settings: the run's.
        model: the model's name, hash and size.
        run: the identity of the OUT, for the marker.
    """

    def __init__(
        self,
        store: Store,
        shard: int,
        table: pa.Table,
        rows: list[PromptRow],
        columns: Columns,
        settings: RunSettings,
        model: ModelLabel,
        run: str | None = None,
    ) -> None:
        self._store, self._shard, self._table, self._columns = store, shard, table, columns
        self._settings, self._model, self._rows = settings, model, rows
        self._layout = LAYOUTS[settings.layout](store, shard, EXTENSIONS[settings.image_format])
        self._run = run
        self._outcomes: list[Outcome | None] = [None] * (len(rows) * settings.images_per_prompt)

    def add(self, index: int, image: GeneratedImage) -> None:
        """Add image `index` of the shard, made or failed: encode it, and write or hold it. Thread-safe.

        Raises:
            StorageError: the image cannot be written.
            ValueError: this image was already added.
        """
        if self._outcomes[index] is not None:
            raise ValueError(f"image {index} of shard {self._shard} was already added")
        key = image_key(self._shard, index)
        if image.pixels is not None and (reason := lack_of_room(*image.pixels.shape[:2], self._settings.watermark)):
            image = replace(image, pixels=None, error=reason)
        outcome = self._failed(key, index, image) if image.pixels is None else self._made(key, image)
        self._outcomes[index] = outcome  # each index is written by one thread, once

    def finish(self, seconds: float, notes: Mapping[str, Any] | None = None) -> ShardStats:
        """Write the metadata, and then the marker, which makes the shard count as done.

        Raises:
            StorageError: a file cannot be written; the shard is then not done.
            ValueError: images are missing.
        """
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        if len(outcomes) < len(self._outcomes):
            raise ValueError(f"shard {self._shard} lacks {len(self._outcomes) - len(outcomes)} of its images")
        keys = [image_key(self._shard, index) for index in range(len(outcomes))]
        extra = self._layout.columns({key: o.error is None for key, o in zip(keys, outcomes, strict=True)})
        metadata = metadata_table(self._table, self._columns, keys, outcomes, self._model.name, extra)
        self._layout.finish(metadata, metadata_schema(self._columns, self._settings.layout))
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        stats = ShardStats(
            shard=self._shard,
            rows=len(self._rows),
            images=len(outcomes),
            ok=len(outcomes) - len(errors),
            failed=len(errors),
            reasons=count_reasons(errors),
            seconds=seconds,
            notes=dict(notes or {}),
            run=self._run,
        )
        self._store.write(marker_name(self._shard), stats.to_json())
        return stats

    def _made(self, key: str, image: GeneratedImage) -> Outcome:
        height, width = image.pixels.shape[:2]
        request = replace(image.request, height=height, width=width)
        pixels = watermarked(image.pixels, self._settings.watermark)
        fields = self._columns.fields
        row = Outcome(request).row(self._model.name, fields, self._columns.networks) | {"model_hash": self._model.hash}
        data = encode(pixels, self._settings.image_format, self._settings.image_quality, row, fields)
        self._layout.add(key, data)
        digest = hashlib.sha256(data).hexdigest()
        return Outcome(request, None, digest, image.prompt_tokens, image.prompt_truncated, self._judged(image))

    def _failed(self, key: str, index: int, image: GeneratedImage) -> Outcome:
        row = self._rows[index // self._settings.images_per_prompt]
        if row.error is None:  # an earlier attempt may have written the picture
            self._layout.drop(key)
        request = self._sized(image.request, row.unread)
        error = image.error or "the engine made no picture"
        return Outcome(request, error, prompt_tokens=image.prompt_tokens or None, judged=self._judged(image))

    def _judged(self, image: GeneratedImage) -> dict[str, Any]:
        found = {"attempt": image.attempt, "accepted": image.accepted, **image.scores}
        return {name: found.get(name) for name in self._columns.judged}

    def _sized(self, request: Request, unread: frozenset[str]) -> Request:
        own = {"height": self._model.height, "width": self._model.width}
        left_open = {name for name in own if getattr(request, name) is None and name not in unread}
        return replace(request, **{name: own[name] for name in left_open})
