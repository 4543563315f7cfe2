"""One prompt in the place of a table: what everybody tries first."""

from __future__ import annotations

import os

import pyarrow as pa

__all__ = ["FORMAT", "SCHEMA", "is_prompt", "prompt_table"]

FORMAT = "prompt"
SCHEMA = pa.schema([("prompt", pa.string())])
# Whoever names a file of these types means a file, be it one that sdbatch can't read.
FILE_ENDINGS = (
    *(".parquet", ".pq", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt"),
    *(".arrow", ".arrows", ".feather", ".ipc", ".orc", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip"),
)


def is_prompt(text: str) -> bool:
    """Whether PROMPTS is a prompt itself: words that name nothing there is, and that don't look like a path.

    A path with a slip of the pen must not become a picture: a single word is always a path, and so is what
    looks like a URL, a glob of files, a file's name, or a name in a folder that exists.
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
