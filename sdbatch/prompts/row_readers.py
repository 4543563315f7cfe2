"""What has to be read for rows besides the table: their pictures, their LoRAs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sdbatch.prompts.columns import Columns
from sdbatch.prompts.lora_cells import LoraReader, names_loras, recorded_loras
from sdbatch.prompts.picture_cells import PictureReader, RowReader, paths_in, picture_names
from sdbatch.settings import RunSettings

__all__ = ["row_readers"]


def row_readers(columns: Columns, settings: RunSettings, networks: Iterable[Mapping[str, str]] = ()) -> list[RowReader]:
    """The readers that the rows of a table need; none if they name no files.

    Args:
        networks: the manifest's entries of what rows add to the model.
    """
    readers = list[RowReader]()
    if names := picture_names(columns.fields):
        given = frozenset(path for name in names for path in paths_in(settings.extra.get(name)))
        readers.append(PictureReader(names, settings.storage_options, settings.allow_image_urls, given))
    if names_loras(columns, settings):
        readers.append(_lora_reader(settings, networks))
    return readers


def _lora_reader(settings: RunSettings, networks: Iterable[Mapping[str, str]]) -> LoraReader:
    recorded = recorded_loras(networks)
    return LoraReader(settings.lora_dir, settings.storage_options, settings.merge_lora, recorded)
