"""The prompt table: finding its files, checking it as a whole, reading shards of it, and parsing its rows."""

from sdbatch.prompts.columns import OUTPUT_COLUMNS, Columns, check_table
from sdbatch.prompts.inputs import InputFile, list_inputs
from sdbatch.prompts.reading import read_rows
from sdbatch.prompts.rows import PromptRow, parse

__all__ = [
    "OUTPUT_COLUMNS",
    "Columns",
    "InputFile",
    "PromptRow",
    "check_table",
    "list_inputs",
    "parse",
    "read_rows",
]
