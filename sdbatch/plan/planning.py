"""Makes the plan of a run: inputs, columns, shards, finished work. Reads footers, run.json and one listing of OUT."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbatch.diffusion import ModelInfo, Request, validate
from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.models.inspection import check_deep_cache
from sdbatch.diffusion.row_fields import own_fields
from sdbatch.diffusion.tasks import task_named, task_of
from sdbatch.diffusion.validation import check_compile_sizes
from sdbatch.engine_settings import resolve_engine
from sdbatch.errors import SamplerError, UsageError
from sdbatch.model_source import ModelSource, check_recorded
from sdbatch.output import finished_shards
from sdbatch.output.as_input import made_table
from sdbatch.output.continuation import continued
from sdbatch.output.footprint import Footprint, first_clash
from sdbatch.output.manifest import RunRecord, new_record
from sdbatch.output.manifest_files import OWN_NAMES, check_size, load_manifest, replacing
from sdbatch.plan.destination import check_out, check_overwrite, check_sources, hub_notices
from sdbatch.plan.kept_tables import kept_before, kept_here, placed
from sdbatch.plan.lora_checks import check_loras
from sdbatch.plan.named_networks import named_networks
from sdbatch.plan.picture_sizes import watermark_refusal
from sdbatch.plan.table_columns import columns_of, may_have_pictures, refuse_adapters, refuse_lone
from sdbatch.prompts import Columns, InputFile, find_inputs
from sdbatch.prompts.picture_cells import UNREAD, picture_names, unread
from sdbatch.prompts.python_tables import GivenTable
from sdbatch.prompts.shards import Cut, Selection, default_shard_size, shard_rows
from sdbatch.resolution import refuse_unused, resolved, with_compression, with_task
from sdbatch.row_networks import Network
from sdbatch.scoring.judging import keep_policy, scorer_weights
from sdbatch.settings import RunSettings
from sdbatch.storage.addresses import protocol_of
from sdbatch.storage.storage_options import are_unused
from sdbatch.storage.store import Store
from sdbatch.weighted_files import WeightedFiles

__all__ = ["Plan", "check_defaults", "make_plan", "settings_source"]


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a model is loaded.

    Attributes:
        out: where the dataset goes.
        files: the input files in the order of their numbers.
        columns: the meaning of each column of the table.
        model: the facts from the model's configurations.
        record: the content of run.json, existing or to be written.
        known: whether OUT already had a run.json that this run continues.
        shards: all shards of the table.
        todo: those of this part that have no marker yet.
        settings: the run's, with the defaults of the model's family filled in.
        replaced: the record of the output that `--overwrite` replaces; None if there is none.
        notices: warnings about PROMPTS and OUT for the user, one line each.
        given: the table passed from Python, if it is still to be written to the path of the one file; else None.
        networks: the networks that rows name.
    """

    out: Store
    files: list[InputFile]
    columns: Columns
    model: ModelInfo
    record: RunRecord
    known: bool
    shards: Cut
    todo: Selection
    settings: RunSettings
    replaced: RunRecord | None = None
    notices: tuple[str, ...] = ()
    given: GivenTable | None = None
    networks: tuple[Network, ...] = ()

    @property
    def rows(self) -> int:
        return self.shards.rows


def make_plan(prompts: str | GivenTable, out: str, settings: RunSettings) -> Plan:
    """Plan a run of `prompts` into `out`. The record of a new OUT has no engine settings yet.

    Raises:
        InputError, ModelError, StorageError, UsageError: everything that can be found to be wrong before work starts.
    """
    check_out(out)
    store = Store(out, settings.storage_options)
    found = load_manifest(store)
    earlier, replaced = (None, found) if settings.overwrite else (found, None)
    if replaced is not None:
        check_overwrite(store)
    given, files, notices = _inputs(prompts, store, settings, earlier)
    # The columns of an OUT depend on its model, and the use of picture columns on the model's task.
    if earlier is None and (settings.task is not None or not may_have_pictures(files)):
        # Report errors in the table before a model is fetched.
        columns_of(files, settings, None, None)
    source = settings_source(settings)
    model = source.inspect()
    if model.approximate_vae:
        vae = model.swapped.get("vae", "the model's VAE")
        notices = (*notices, f"{vae}: an AutoencoderTiny (TAESD), which approximates the VAE it was distilled from")
    settings = _with_absolute_loras(_with_absolute_pictures(with_task(settings, model)))
    refuse_unused(settings, model)
    refuse_lone(files, settings)
    settings = resolved(settings, model)
    settings = with_compression(settings, None if earlier is None else earlier.settings["compression"])
    columns = columns_of(files, settings, earlier, model)
    if settings.keep_input_images and not picture_names(columns.fields):
        raise UsageError("--keep-input-images: no row of this run can have an input picture; leave it out")
    check_defaults(settings, model, columns)
    _check_engine(settings, model, columns)
    keep_policy(settings, carried=columns.schema)  # refuses invalid scoring options
    weights = scorer_weights(settings, model.folder)
    networks = named_networks(files, columns, settings, model)
    columns = dataclasses.replace(columns, networks={network.name: network.sha256 for network in networks})
    loras = check_loras(files, columns, settings, model)
    if given is not None:  # until here it was read from this machine
        files = [placed(given, file, store) for file in files]
    record = _new_record(files, columns, settings, source.entry(model), earlier, weights)
    record = dataclasses.replace(record, networks=[*(network.entry() for network in networks), *loras])
    if earlier is not None:
        check_recorded(model, earlier.model, store.url)
        record = continued(earlier, record)
        resolve_engine(settings, earlier.engine, model, has_gpus=False)  # refuses settings that change pictures
    elif replaced is not None:
        record = dataclasses.replace(record, replaces=(replaced.footprint, *_still_there(store, replaced)))
    check_size(record)
    entries = store.entries()
    _refuse_clash(store, entries, record, earlier)
    files = record.numbered(files)
    shards = record.cut
    # Existing shards belong to the replaced output; nothing of this run is done yet.
    is_fresh = replaced is not None or replacing(store, record)
    todo = Selection(shards, set() if is_fresh else finished_shards(entries), settings.part)
    known = earlier is not None
    images = todo.rows * settings.images_per_prompt
    notices = (*notices, *hub_notices(store, len(todo), images, settings.layout))
    return Plan(
        store, files, columns, model, record, known, shards, todo, settings, replaced, notices, given, tuple(networks)
    )


def _check_engine(settings: RunSettings, model: ModelInfo, columns: Columns) -> None:
    """Refuse settings of the engine that do not work with this model or this table. Raises `SdbatchError`."""
    if settings.release_text_encoders == "on":
        family_named(model.family).check_release()
    check_compile_sizes(settings.value("compile_sizes"), model)
    if settings.value("deep_cache") > 1:
        check_deep_cache(model)
        refuse_adapters(columns, settings)


def _inputs(
    prompts: str | GivenTable, out: Store, settings: RunSettings, earlier: RunRecord | None
) -> tuple[GivenTable | None, list[InputFile], tuple[str, ...]]:
    """The table that is to be written into OUT, if there is one; the input files; and messages about them."""
    options, given = settings.storage_options, None
    if isinstance(prompts, GivenTable):
        kept = kept_before(prompts, out, earlier)
        given, path = (None, kept) if kept else (prompts, prompts.path)
    else:
        path = prompts
    found = made_table(path, options, settings.column.values()) or find_inputs(
        path, options, per_file=settings.prompt_per_file
    )
    files = found.files
    if given is None and (kept_files := kept_here(out, files)):
        files = kept_files
        check_sources(out, None, (), settings.model, options)
    else:
        check_sources(out, path, files, settings.model, options)
    notices = [*found.notices]
    if are_unused(options, [path, out.url, *_named_places(settings)]):
        notices.append("--storage-options: PROMPTS, OUT and the model are local; only URLs in cells use them")
    return given, files, tuple(notices)


def _named_places(settings: RunSettings) -> Iterator[str | None]:
    """The paths and URLs that options name, besides OUT."""
    yield from (settings.model, settings.lora_dir, settings.vae, settings.tokenizer)
    yield from (*settings.text_encoder.values(), *settings.embedding.values(), *settings.scorer_model.values())
    for value in settings.extra.values():
        yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, str))


def _with_absolute_pictures(settings: RunSettings) -> RunSettings:
    """The settings with absolute paths of local pictures: workers run in their own folders."""
    pictures = picture_names(own_fields())
    found = {name: _absolute(value) for name, value in settings.extra.items() if name in pictures}
    return dataclasses.replace(settings, extra={**settings.extra, **found})


def _absolute(value: Any) -> Any:
    """Paths, made absolute; URLs are unchanged."""
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return str(Path(value).absolute()) if protocol_of(value) is None else value


def _with_absolute_loras(settings: RunSettings) -> RunSettings:
    """The settings with absolute paths of LoRAs and of their folder; URLs are unchanged."""
    folder, text = settings.lora_dir, settings.extra.get("lora")
    if folder is not None and protocol_of(folder) is None:
        folder = str(Path(folder).absolute())
    if text is not None and folder is None:
        files = WeightedFiles().files("--lora", text)
        places = (file.path if protocol_of(file.path) else str(Path(file.path).absolute()) for file in files)
        text = ";".join(str(file._replace(path=place)) for file, place in zip(files, places, strict=True))
    return dataclasses.replace(settings, lora_dir=folder, extra={**settings.extra, "lora": text})


def _still_there(store: Store, replaced: RunRecord) -> tuple[Footprint, ...]:
    """Footprints that an earlier, interrupted `--overwrite` has not removed yet."""
    return replaced.replaces if replacing(store, replaced) else ()


def _refuse_clash(store: Store, entries: Mapping[str, int], record: RunRecord, earlier: RunRecord | None) -> None:
    """Refuse to overwrite files that the manifest does not show to belong to this OUT."""
    owned = [*record.replaces, *([] if earlier is None else [earlier.footprint])]
    clash = None if owned else next((name for name in sorted(entries) if OWN_NAMES.fullmatch(name.rstrip("/"))), None)
    clash = clash or first_clash(store, entries, record.footprint, owned)
    if clash is not None:
        raise UsageError(
            f"{store.name(clash)} does not belong to this output, and this run would overwrite it; "
            "move it away, or use another OUT"
        )


def settings_source(settings: RunSettings) -> ModelSource:
    """Where a run's model comes from."""
    return ModelSource(
        settings.model,
        revision=settings.revision,
        variant=settings.variant,
        tokenizer=settings.tokenizer,
        prediction_type=settings.prediction_type,
        vae=settings.vae,
        text_encoders=settings.text_encoder,
        scheduler_config=settings.scheduler_config,
        embeddings=settings.embedding,
        options=settings.storage_options,
    )


def check_defaults(settings: RunSettings, model: ModelInfo, columns: Columns) -> None:
    """Raise `UsageError` for settings with which no row could be made; a row's own values are judged row by row."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Request) if field.name != "prompt"}
    # Of settings that belong together, options may have some and the rows the others.
    together = {f.beside or f.name for f in own_fields() if f.only_if_used and f.name in columns.settings}
    split = {f.name for f in own_fields() if f.beside in together or f.name in together}
    own["extra"] = {name: value for name, value in settings.extra.items() if name not in split}
    if task_named(own["task"]).needs_picture and "image" in columns.settings:
        own["extra"].setdefault("image", UNREAD)
    request = unread(Request(prompt="any", **own), picture_names(own_fields()))
    if task_of(request) is not task_named(request.task):
        return  # the rows have the missing values
    if settings.watermark == "":
        raise UsageError("--watermark is empty; expected text")
    reason = validate(request, model)
    if reason is None and model.scheduler_config:
        reason = _uncompilable(request, model)
    if reason is None and not {"height", "width"} & columns.settings.keys():
        reason = watermark_refusal(request, model, settings.watermark)
    if reason is not None:
        raise UsageError(f"these settings cannot produce an image: {reason}")


def _uncompilable(request: Request, model: ModelInfo) -> str | None:
    """Why a sampler can't run with changed entries of the scheduler's configuration; None if it can."""
    try:
        lane_calls(request, model)
    except SamplerError as error:
        return str(error)
    return None


def _new_record(
    files: list[InputFile],
    columns: Columns,
    settings: RunSettings,
    model: Mapping[str, Any],
    earlier: RunRecord | None,
    weights: Mapping[str, str],
) -> RunRecord:
    if settings.shard_size is None and earlier is not None:
        rows_per_shard = earlier.shard_rows
    else:
        images = sum(file.rows for file in files) * settings.images_per_prompt
        height, width = settings.height or model["height"], settings.width or model["width"]
        size = settings.shard_size or default_shard_size(images, height, width)
        rows_per_shard = shard_rows(size, settings.images_per_prompt)
    return new_record(settings, model, files, columns, rows_per_shard, scorer_weights=weights)
