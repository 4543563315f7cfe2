"""What has to be read for rows besides the table: their pictures, their LoRAs."""

from __future__ import annotations

from sdbatch.prompts.columns import Columns
from sdbatch.prompts.lora_cells import LoraReader, names_loras
from sdbatch.prompts.picture_cells import PictureReader, RowReader, paths_in, picture_names
from sdbatch.settings import RunSettings

__all__ = ["row_readers"]


def row_readers(columns: Columns, settings: RunSettings) -> list[RowReader]:
    """The readers that the rows of a table need; none if they name no files."""
    readers = list[RowReader]()
    if names := picture_names(columns.fields):
        given = frozenset(path for name in names for path in paths_in(settings.extra.get(name)))
        readers.append(PictureReader(names, settings.storage_options, settings.allow_image_urls, given))
    if names_loras(columns, settings):
        readers.append(LoraReader(settings.lora_dir, settings.storage_options, settings.merge_lora))
    return readers
