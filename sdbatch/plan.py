"""What a run would do: inputs, columns, shards, what is done. Reads footers, run.json and one listing of OUT."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sdbatch.diffusion import ModelInfo, Request, inspect_model, model_hash, validate
from sdbatch.errors import UsageError
from sdbatch.models import fetch_model
from sdbatch.output import finished_shards
from sdbatch.prompts import Columns, InputFile, check_table, list_inputs
from sdbatch.record import RunRecord, input_entry, picture_settings, versions
from sdbatch.settings import RunSettings
from sdbatch.shards import Shard, cut, default_shard_size, select, shard_rows
from sdbatch.storage import Store

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a model is loaded.

    Attributes:
        out: where the dataset goes.
        files: the input files in the order of their numbers.
        columns: which column of the table feeds what.
        model: what the model's configuration says.
        record: what run.json holds, or will hold once the run begins.
        known: whether OUT already had a run.json.
        shards: all shards of the table.
        todo: those of this part that have no marker yet.
    """

    out: Store
    files: list[InputFile]
    columns: Columns
    model: ModelInfo
    record: RunRecord
    known: bool
    shards: list[Shard]
    todo: list[Shard]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def make_plan(prompts: str, out: str, settings: RunSettings) -> Plan:
    """Plan a run of `prompts` into `out`. The record of a new OUT still lacks how its engines are set up.

    Raises:
        InputError, ModelError, StorageError, UsageError: whatever can be known to be wrong before work begins.
    """
    files = list_inputs(prompts, settings.storage_options)
    columns = check_table(files, settings)
    source = {"revision": settings.revision, "variant": settings.variant}
    model = inspect_model(fetch_model(settings.model, options=settings.storage_options, **source), **source)
    _check_defaults(settings, model)
    store = Store(out, settings.storage_options)
    entries = {} if settings.overwrite else store.entries()
    record = None if settings.overwrite else RunRecord.load(store)
    new = _new_record(files, settings, model, record)
    known = record is not None
    record = record.continued(new) if record is not None else new
    files = record.numbered(files)
    shards = list(cut(files, record.shard_rows))
    todo = select(shards, finished_shards(entries), settings.part)
    return Plan(store, files, columns, model, record, known, shards, todo)


def _check_defaults(settings: RunSettings, model: ModelInfo) -> None:
    """What no row could be made with is refused at once; a row's own values are judged row by row."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Request) if field.name != "prompt"}
    request = Request(prompt="any", **own)
    if reason := validate(request, model):
        raise UsageError(f"the run's own settings make no picture: {reason}")


def _new_record(
    files: list[InputFile],
    settings: RunSettings,
    model: ModelInfo,
    earlier: RunRecord | None,
) -> RunRecord:
    if settings.shard_size is None and earlier is not None:
        rows_a_shard = earlier.shard_rows
    else:
        images = sum(file.rows for file in files) * settings.images_per_prompt
        height, width = settings.height or model.height, settings.width or model.width
        size = settings.shard_size or default_shard_size(images, height, width)
        rows_a_shard = shard_rows(size, settings.images_per_prompt)
    return RunRecord(
        settings=picture_settings(settings),
        model={
            "name": model.name,
            "source": settings.model,
            "hash": model_hash(model),
            "family": model.family,
            "height": model.height,
            "width": model.width,
        },
        engine={},
        inputs=[input_entry(file) for file in files],
        shard_rows=rows_a_shard,
        versions=versions(),
    )
