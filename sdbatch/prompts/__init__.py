"""The prompt table: finds its files, checks it as a whole, reads shards of it, and parses its rows."""

from sdbatch.prompts.columns import OUTPUT_COLUMNS, SOURCES, Columns, check_table
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.inputs import list_inputs
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.reading import mended_texts, read_rows, read_table
from sdbatch.prompts.rows import PromptRow, parse
from sdbatch.prompts.summary import carried_columns, encodings, setting_columns, unused_settings

__all__ = [
    "OUTPUT_COLUMNS",
    "SOURCES",
    "Columns",
    "InputFile",
    "Piece",
    "PromptRow",
    "carried_columns",
    "check_table",
    "encodings",
    "list_inputs",
    "mended_texts",
    "parse",
    "read_rows",
    "read_table",
    "setting_columns",
    "unused_settings",
]
