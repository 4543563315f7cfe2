"""`ImageGenerator` makes pictures of the rows in a user's own Ray Data graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from sdbatch.diffusion.models.model_identity import model_hash
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.engine_settings import resolve_engine
from sdbatch.errors import AdapterError, UsageError
from sdbatch.output import ModelLabel
from sdbatch.output.json_rows import python_rows, to_json
from sdbatch.output.metadata import Outcome, is_network, metadata_table
from sdbatch.output.outcomes import OutcomeMaker
from sdbatch.plan.planning import check_defaults, settings_source
from sdbatch.plan.table_columns import columns_of
from sdbatch.prompts import Columns, InputFile, Piece, PromptRow, parse
from sdbatch.prompts.picture_cells import PicturesAhead
from sdbatch.prompts.python_tables import ArrowStream
from sdbatch.prompts.row_readers import row_readers
from sdbatch.prompts.types import as_plain, plain_schema
from sdbatch.resolution import refuse_unused, resolved, with_compression, with_task
from sdbatch.row_networks import Network, finder, inspect_network
from sdbatch.run.engine_loop import EngineLoop
from sdbatch.run.job import new_engine
from sdbatch.run_options import RunOptions
from sdbatch.settings import RunSettings

__all__ = ["ImageGenerator"]

# Options of runs with an output folder and workers of their own.
NOT_HERE = (
    *("layout", "part", "shard_size", "overwrite", "prompt_per_file", "actors", "address", "start_timeout"),
    *("stall_timeout", "price_per_hour", "same_device"),
)
SCORING = ("scorer", "scorer_model", "keep", "attempts", "best", "on_exhausted", "on_nsfw")
WHERE = "the batch"
IMAGE = "image"


class ImageGenerator:
    """A class for `ray.data.Dataset.map_batches` that adds a picture and its metadata to each row.

    It takes batches of any format and returns Arrow tables. Each row becomes `images_per_prompt` rows with the columns
    of the metadata of `sdbatch generate`: the settings as used, `status` and `error`, and the batch's other columns.
    `image` is the encoded picture, null if the row failed. The meaning of columns is decided as in `sdbatch generate`.

    A row with a `seed` has the same picture, byte for byte, with the same settings and lanes on the same kind of
    device. A row without one gets a seed from the option `seed` and its own settings, so that equal rows have equal
    pictures. Nothing is kept and nothing is resumed; use `sdbatch.generate` for that.

    Several calls may run at the same time, and then share the lanes.

    Args:
        options: the options of `sdbatch.generate` for rows, model, pictures and engine. On a GPU, `lanes` should be
            given; otherwise each worker measures how many fit. Relative paths in cells begin at the worker's current
            folder.

    Raises:
        TypeError: an unknown keyword. It is also a `UsageError`.
        UsageError: an invalid option, or one that has no meaning here; or, of a call, a batch that cannot be used.
        ModelError: the model cannot be found, read or run.
    """

    def __init__(self, **options: Unpack[RunOptions]) -> None:
        if odd := next((name for name in SCORING if name in options), None):
            raise UsageError(f"{odd}: ImageGenerator does not score; use sdbatch.generate, or a stage of your own")
        if odd := next((name for name in NOT_HERE if name in options), None):
            raise UsageError(f"{odd}: not an option of ImageGenerator; use sdbatch.generate, or Ray Data's own")
        settings = RunSettings.from_options({**options, "layout": "parquet"})
        self._model = settings_source(settings).inspect()
        settings = with_task(settings, self._model)
        refuse_unused(settings, self._model)
        self._settings = with_compression(resolved(settings, self._model))
        self._label = ModelLabel(self._model.name, model_hash(self._model), self._model.height, self._model.width)
        self._networks: dict[str, Network] = {}
        self._known: dict[pa.Schema, Columns] = {}
        engine = resolve_engine(self._settings, None, self._model, has_gpus=_has_gpus())
        self._loop = EngineLoop(new_engine(self._model, self._settings, engine, self._find), lambda: None)

    def __call__(self, batch: pa.Table | Mapping[str, Any] | ArrowStream) -> pa.Table:
        """Make the pictures of a batch: an Arrow table, a pandas frame, or arrays by name."""
        table = _plain(_arrow(batch))
        columns = self._columns_of(table.schema)
        rows = parse(table, columns, self._settings, _places(table, columns))
        rows, columns = self._with_networks(rows, columns)
        outcomes, images = self._made(rows, columns)
        keys = [""] * len(outcomes)
        metadata = metadata_table(table, columns, keys, outcomes, self._model.name, {}).drop_columns(["key"])
        return metadata.append_column(IMAGE, pa.array(images, pa.binary()))

    def _columns_of(self, schema: pa.Schema) -> Columns:
        if schema not in self._known:
            batch = InputFile(WHERE, 0, "", 0, (0,), "parquet", schema)
            columns = columns_of([batch], self._settings, None, self._model)
            check_defaults(self._settings, self._model, columns)
            self._known[schema] = replace(
                columns,
                sources=(),
                carried={column: name for column, name in columns.carried.items() if column not in columns.sources},
                schema=pa.schema([field for field in columns.schema if field.name not in columns.sources]),
            )
        return self._known[schema]

    def _made(self, rows: Sequence[PromptRow], columns: Columns) -> tuple[list[Outcome], list[bytes | None]]:
        maker = OutcomeMaker(rows, columns, self._settings, self._label)
        requests = [(request, row.error) for row in rows for request in row.requests]
        runnable = [index for index, (_, error) in enumerate(requests) if error is None]
        outcomes: list[Any] = [None] * len(requests)
        images: list[bytes | None] = [None] * len(requests)

        def add(index: int, image: GeneratedImage) -> None:
            outcomes[index], images[index] = maker.outcome(index, image)

        for index, (request, error) in enumerate(requests):
            if error is not None:
                add(index, GeneratedImage(request, index, None, error))
        wanted: Sequence[Request] = [requests[index][0] for index in runnable]
        if readers := row_readers(columns, self._settings):
            wanted = PicturesAhead([(request, "") for request in wanted], readers)
        self._loop.run(wanted, lambda position, image: add(runnable[position], image))
        return outcomes, images

    def _with_networks(self, rows: list[PromptRow], columns: Columns) -> tuple[list[PromptRow], Columns]:
        """The rows, with an error in those that name a missing network, and the hashes of all other networks."""
        settings = [field.name for field in columns.fields if is_network(field)]
        if not settings:
            return rows, columns
        rows = [self._with_network(row, settings) for row in rows]
        hashes = {name: network.sha256 for name, network in self._networks.items()}
        return rows, replace(columns, networks=hashes)

    def _with_network(self, row: PromptRow, settings: Sequence[str]) -> PromptRow:
        try:
            for setting in settings:
                for name in row.requests[0].extra.get(setting) or ():
                    if row.error is None and name not in self._networks:
                        options = self._settings.storage_options
                        self._networks[name] = inspect_network(setting, name, self._model, options)
        except AdapterError as exc:
            return replace(row, error=str(exc))
        return row

    def _find(self, name: str) -> Path:
        found = [self._networks[name].entry()]
        return finder(found, self._model, WHERE, self._settings.storage_options)(name)


def _has_gpus() -> bool:
    import torch  # an engine needs it anyway; `import sdbatch` does not

    return torch.cuda.is_available()


def _arrow(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in batch.items()})
    return pa.Table.from_pandas(batch, preserve_index=False)


def _plain(table: pa.Table) -> pa.Table:
    schema = plain_schema(table.schema.remove_metadata())
    batches = [as_plain(batch, schema, schema.names)[0] for batch in table.to_batches()]
    return pa.Table.from_batches(batches, schema)


def _places(table: pa.Table, columns: Columns) -> list[Piece]:
    """A place for each row that follows from its settings alone: a batch does not say where its rows come from."""
    cells = table.select(list(columns.settings.values())).rename_columns(list(columns.settings))
    digests = (blake2b(to_json(row), digest_size=8).digest() for row in python_rows(cells))
    return [Piece(0, int.from_bytes(digest, "big"), 1) for digest in digests]
