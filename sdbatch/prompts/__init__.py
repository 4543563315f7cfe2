"""The prompt table: finds its files, checks it as a whole, reads shards of it, and parses its rows."""

from sdbatch.prompts.columns import SOURCES, Columns
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.inputs import Inputs, find_inputs, list_inputs
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.reading import mended_texts, read_rows, read_table
from sdbatch.prompts.rows import PromptRow, parse
from sdbatch.prompts.summary import carried_columns, readings, setting_columns, unused_settings
from sdbatch.prompts.table_check import OUTPUT_COLUMNS, check_table

__all__ = [
    "OUTPUT_COLUMNS",
    "SOURCES",
    "Columns",
    "InputFile",
    "Inputs",
    "Piece",
    "PromptRow",
    "carried_columns",
    "check_table",
    "find_inputs",
    "list_inputs",
    "mended_texts",
    "parse",
    "read_rows",
    "read_table",
    "readings",
    "setting_columns",
    "unused_settings",
]
