"""Writes one shard: its images as they are made, its metadata at the end, and its marker last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sdbatch.diffusion.request import GeneratedImage
from sdbatch.output.keys import EXTENSIONS, image_key
from sdbatch.output.layouts import LAYOUTS
from sdbatch.output.markers import ShardStats, count_reasons, write_marker
from sdbatch.output.metadata import Outcome, kept_pictures, metadata_schema, metadata_table
from sdbatch.output.outcomes import ModelLabel, OutcomeMaker
from sdbatch.prompts import Columns, PromptRow
from sdbatch.settings import RunSettings
from sdbatch.storage.held_writes import held
from sdbatch.storage.store import Store

__all__ = ["ShardWriter"]


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
        self._store, self._shard, self._table, self._columns = held(store), shard, table, columns
        self._settings, self._model, self._rows = settings, model, rows
        self._maker = OutcomeMaker(rows, columns, settings, model)
        self._layout = LAYOUTS[settings.layout](self._store, shard, EXTENSIONS[settings.image_format])
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
        outcome, data = self._maker.outcome(index, image)
        if data is not None:
            self._layout.add(key, data)
        elif self._maker.row_of(index).error is None:  # an earlier attempt may have written the picture
            self._layout.drop(key)
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
        schema = metadata_schema(self._columns, self._settings.layout)
        self._layout.finish(metadata, schema, kept_pictures(self._columns, outcomes))
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
        write_marker(self._store, stats)
        return stats
