"""Text files with one prompt each, identified by their names: one row per file (`--prompt-per-file`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.prompts.compressed import inner_name
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.text import encoding_of, opened_text
from sdbatch.storage.store import StoredFile

__all__ = ["FORMAT", "describe_prompt_file", "prompt_batch"]

FORMAT = "prompt file"
SCHEMA = pa.schema([("prompt", pa.string()), ("id", pa.string())])
MAX_BYTES = 16 << 20


def describe_prompt_file(
    file: StoredFile, name: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> InputFile:
    """The file as a table of one row: its prompt, and its name without folder and ending as `id`.

    Raises:
        InputError: its encoding cannot be detected.
        StorageError: the store failed.
    """
    own = inner_name(file.path).rpartition("/")[2].rpartition(".")[0]
    encoding = encoding_of(file.path, options, content)
    return InputFile(
        file.path, file.size, file.stamp, 1, (1,), FORMAT, SCHEMA, encoding, partitions={"id": own}, name=name
    )


def prompt_batch(file: InputFile, options: Mapping[str, Any] | None, content: bytes | None = None) -> pa.RecordBatch:
    """The prompt: the whole text, including line breaks, without blanks around it.

    Raises:
        InputError: it is larger than any prompt.
        StorageError: the store failed.
    """
    with opened_text(file.path, "txt", options, file.encoding, content) as stream:
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise InputError(f"{file.path}: is larger than {MAX_BYTES >> 20} MB; --prompt-per-file makes it one prompt")
    # Not decoded: text that is not UTF-8 must fail only its row.
    prompt = pa.array([text.strip()], pa.binary()).cast(pa.string(), safe=False)
    return pa.RecordBatch.from_arrays([prompt], names=["prompt"])
