"""The LoRA files of a table, each checked once, by its header, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdbatch.diffusion import ModelInfo
from sdbatch.diffusion.adapters.lora_files import lora_model, read_lora_header
from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.file_hashes import file_hash
from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.errors import AdapterError, InputError, ModelError, StorageError, UsageError
from sdbatch.fields import Field
from sdbatch.plan.named_cells import named_cells
from sdbatch.prompts import Columns, InputFile
from sdbatch.prompts.lora_cells import TAGGED, LoraReader, without_lora_tags
from sdbatch.prompts.picture_cells import folder_of
from sdbatch.settings import RunSettings
from sdbatch.storage.listing import StoredFile
from sdbatch.storage.local_copies import content_stamp, only_file
from sdbatch.storage.store import Store
from sdbatch.weighted_files import WeightedFiles

__all__ = ["check_loras"]

PROMPT = next(field for field in ROW_FIELDS if field.name == "prompt")
Named = tuple[str, str]
"""What a row names, as text, and the folder of the row's file."""


def check_loras(
    files: list[InputFile], columns: Columns, settings: RunSettings, model: ModelInfo
) -> list[dict[str, str]]:
    """Read the header of every LoRA file that the run names. Any other mistake in a cell fails only its row.

    Returns:
        The files' entries for a manifest.

    Raises:
        InputError: one cannot be read or does not fit the model; names the table's file, the row and the layer.
        UsageError: the same for `--lora`; or rows may differ although LoRAs are to be merged.
    """
    if all(field.name != LORA.name for field in columns.fields):
        return []
    if settings.merge_lora:
        _refuse_what_differs(columns, settings)
    checked: dict[str, dict[str, str]] = {}
    fits = None
    for text, folder, where in _named(files, columns, settings):
        for lora in WeightedFiles().files("lora", text):
            try:
                store = LoraReader(settings.lora_dir, settings.storage_options).store(lora.path, folder)
                if store.url in checked:
                    continue
                fits = fits or lora_model(model)
                found = only_file(store)
                with store.open("") as file:
                    read_lora_header(file, found.size, lora.path, fits)
                checked[store.url] = _entry(store, found)
            except (AdapterError, ModelError, StorageError, UsageError) as error:
                raise (InputError if where else UsageError)(f"{where or '--lora: '}{error}") from error
    return list(checked.values())


def _entry(store: Store, file: StoredFile) -> dict[str, str]:
    """A file's entry: with its hash if it is on this machine, else with its store's stamp."""
    content = {"sha256": file_hash(Path(file.path))} if store.is_local else {"stamp": content_stamp(file)}
    return {"setting": LORA.name, "name": store.url, "source": store.url, **content}


def _refuse_what_differs(columns: Columns, settings: RunSettings) -> None:
    """Merged LoRAs apply to all rows. Raises `UsageError` if rows could differ."""
    if settings.extra.get("lora") is None:
        raise UsageError("--merge-lora: merges the LoRAs of --lora, which is missing")
    if settings.lora_dir is not None or "lora" in columns.settings:
        what = "--lora-dir" if settings.lora_dir is not None else f"the table's column {columns.settings['lora']!r}"
        raise UsageError(f"--merge-lora: does not work with {what}, which differs between rows; leave one of them out")


def _named(files: list[InputFile], columns: Columns, settings: RunSettings) -> Iterator[tuple[str, str, str]]:
    """Each text that names LoRAs, once per folder; the folder; and where it occurs first, "" for the option."""
    if (of_the_run := settings.extra.get("lora")) is not None:
        yield of_the_run, "", ""
    fields = [LORA] if settings.lora_dir is None else [LORA, PROMPT]
    seen: set[Named] = set()
    for field, file, row, cell in named_cells(files, columns, fields, settings.storage_options):
        folder = folder_of(file)
        if (text := _text_of(field, cell)) and (text, folder) not in seen:
            seen.add((text, folder))
            yield text, folder, f"{file}: row {row} (from 0), {columns.settings[field.name]}: "


def _text_of(field: Field, cell: object) -> str | None:
    """The files that a cell names, as text; None if it names none, or if its row fails."""
    if not isinstance(cell, str):
        return None
    if field is LORA:
        return cell
    try:
        return without_lora_tags(cell)[1] if TAGGED in cell else None
    except UsageError:
        return None
