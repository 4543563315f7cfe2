"""A prompt instead of a table: the first thing that most people try."""

from __future__ import annotations

import os

import pyarrow as pa

__all__ = ["FORMAT", "SCHEMA", "is_prompt", "prompt_table"]

FORMAT = "prompt"
SCHEMA = pa.schema([("prompt", pa.string())])
# A name with one of these suffixes means a file, even if sdbatch can't read it.
FILE_ENDINGS = (
    *(".parquet", ".pq", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt"),
    *(".arrow", ".feather", ".orc", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip"),
)


def is_prompt(text: str) -> bool:
    """Whether PROMPTS is a prompt itself: words that name no existing file and don't look like a path.

    A mistyped path must not become a picture: a single word is always a path, and so is anything that looks like a
    URL, a glob, a file name, or a name in an existing folder.
    """
    words = text.split()
    if len(words) < 2 or "://" in text or "*" in text or text.startswith(("/", "./", "../", "~")):
        return False
    if text.rstrip().lower().endswith(FILE_ENDINGS) or os.path.exists(text):
        return False
    folder, slash, name = text.rpartition("/")
    return not slash or (len(name.split()) > 1 and not os.path.isdir(folder))


def prompt_table(text: str) -> pa.Table:
    """The prompt as a table of one row."""
    return pa.table({"prompt": [text]}, SCHEMA)
