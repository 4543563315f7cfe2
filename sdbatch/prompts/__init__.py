"""The prompt table: finds its files, checks it as a whole, reads shards of it, and parses its rows.

inputs.py           the files of a table                  table_kinds.py      which files form a table
table_check.py      what each column means                names.py            columns by their other names
columns.py          the result of that check              column_types.py     which types a setting's column may have
shards.py           cuts the table into shards            reading.py          reads the rows of a shard
rows.py             a row as requests                     seeds.py            where a row's seed comes from
cells.py            a cell as a setting's value           partitions.py       Hive partitions
unified.py          files whose columns differ
picture_cells.py    pictures in cells, read ahead         lora_cells.py       LoRA files in cells and prompts
summary.py          the columns in words, for a plan

Formats, a file each: parquet_files.py, text.py (with text_encodings.py, compressed.py, json_arrays.py and
json_lines.py), arrow_files.py (with arrow_messages.py), workbooks.py, prompt_files.py (one prompt per file),
saved_datasets.py, python_tables.py (tables passed from Python), made_rows.py (an output of sdbatch), single.py (one
prompt).
"""

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
