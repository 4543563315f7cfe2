"""Prompt tables as text: CSV and TSV with a header line, JSON Lines, JSON arrays, and one prompt per line.

A text file has no footer, so it is read once to plan (number of rows, columns), and once more to run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pcsv

from sdbatch.errors import InputError
from sdbatch.prompts.compressed import DAMAGED, inner_name, packed_as, unpacked
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.json_arrays import as_lines
from sdbatch.prompts.json_lines import joined_pieces, json_batches
from sdbatch.prompts.lent_files import copied, lent
from sdbatch.prompts.text_encodings import UTF8, as_utf8, find_encoding
from sdbatch.prompts.wide_tables import refuse_wide
from sdbatch.storage.store import Store

__all__ = [
    "PIECE_BYTES",
    "TEXT_FORMATS",
    "describe_text",
    "encoding_of",
    "opened_text",
    "text_pieces",
]

TEXT_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".json": "json",
}
TAB = "\t"
DELIMITERS = {"csv": ",", "tsv": TAB}
# For a CSV whose header line has no comma. Excel writes semicolons in locales with decimal commas.
OTHER_DELIMITERS = (";", TAB)
STATED_DELIMITER = re.compile(rb"sep=(.)\r?\n")
PIECE_BYTES = 16 << 20  # read and decoded at a time
COPIED_BYTES = 64 << 20  # of what is in memory already; more is read in pieces
MAX_LINE_BYTES = 64 << 20
MAX_HEADER_BYTES = 64 << 10  # of a list of prompts that may be a table
# Of text that must be decoded as a whole.
MAX_DECODED_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 256 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_text(
    path: str, kind: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> tuple[int, pa.Schema, str, str]:
    """Rows, columns and encoding of a text file, and a note on what is unusual.

    All columns of CSV and TSV are text.

    `content` is the file's content if it has been read already.

    Raises:
        InputError: the file is not in the format of its name; the message names the line.
        StorageError: the store failed.
    """
    rows, schema, note = 0, pa.schema([]), ""
    encoding = encoding_of(path, options, content)
    with opened_text(path, kind, options, encoding, content) as file:
        if kind in DELIMITERS:
            delimiter, names = _header(file, kind)
            if not names:
                raise InputError(f"{path}: is empty; its first line must name the columns")
            refuse_wide(len(names))
            schema = _text_schema(*names)
            if delimiter != DELIMITERS[kind]:
                note = f"is read with {'tabs' if delimiter == TAB else repr(delimiter)} between its columns"
            rows = sum(batch.num_rows for batch in _csv(file, names, delimiter, names[:1]))
        else:
            mixed: set[str] = set()
            if kind == "txt" and _names_columns(file):
                note = "begins with names of columns, which are read as a prompt; name it .csv or .tsv to read a table"
            for piece in _pieces(file, kind, None, mixed):
                rows, schema = rows + piece.num_rows, joined_pieces(schema, piece.schema, mixed)
            if names := sorted(mixed):
                note = f"has text beside other values in {', '.join(map(repr, names))}, read as text"
    return rows, _text_schema("prompt") if kind == "txt" else schema, encoding, note


def encoding_of(path: str, options: Mapping[str, Any] | None, content: bytes | None = None) -> str:
    """The encoding of a text file. Raises as `describe_text` does."""
    with _unpacked_text(path, options, content) as file:
        return find_encoding(file, path)


def text_pieces(
    file: InputFile, options: Mapping[str, Any] | None, content: bytes | None = None
) -> Iterator[pa.RecordBatch]:
    """The file's rows, piece by piece. Arguments and errors as for `describe_text`."""
    with opened_text(file.path, file.format, options, file.encoding, content) as stream:
        yield from _pieces(stream, file.format, file.own_schema)


@contextmanager
def _unpacked_text(path: str, options: Mapping[str, Any] | None, content: bytes | None) -> Iterator[BinaryIO]:
    """The file's text, unpacked if it is compressed. Raises `InputError` if it can't be unpacked."""
    source = Store(path, options).open("", block_size=PIECE_BYTES) if content is None else io.BytesIO(content)
    with source as file:
        if inner_name(path) == path:
            if ending := packed_as(file.read(10)):
                raise InputError(f"{path}: is compressed, and its name does not say so; rename it to {path}{ending}")
            file.seek(0)
        try:
            yield unpacked(path, file)
        except (*DAMAGED, OSError) as exc:
            if inner_name(path) == path:
                raise
            raise InputError(f"{path}: is damaged, or not compressed as its name says ({_shown(exc)})") from exc


@contextmanager
def opened_text(
    path: str, kind: str, options: Mapping[str, Any] | None, encoding: str, content: bytes | None = None
) -> Iterator[BinaryIO]:
    """The file's text, unpacked, in UTF-8 and without a mark. Raises `InputError`, `StorageError`."""
    with _unpacked_text(path, options, content) as file:
        try:
            if encoding != UTF8:
                file = as_utf8(_bounded(file, is_packed=inner_name(path) != path), encoding)
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            yield as_lines(file) if kind == "json" else file
        except (pa.ArrowException, csv.Error, UnicodeError) as exc:
            raise InputError(f"{path}: {_shown(exc)}") from exc


def _bounded(file: BinaryIO, is_packed: bool) -> BinaryIO:
    """A file's text in memory, up to a limit: a small file can be unpacked to gigabytes, or have holes."""
    max_bytes = MAX_UNPACKED_BYTES if is_packed else MAX_DECODED_BYTES
    text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        unpacked_size = " unpacked" * is_packed
        raise pa.ArrowInvalid(f"is larger than {max_bytes >> 20:,} MB{unpacked_size}, and not UTF-8; save it as UTF-8")
    return io.BytesIO(text)


def _shown(error: Exception) -> str:
    # repr: the message quotes the file, which may contain anything
    return repr((str(error) or type(error).__name__).splitlines()[0])[1:-1][:300]


def _pieces(
    file: BinaryIO, kind: str, schema: pa.Schema | None, mixed: set[str] | None = None
) -> Iterator[pa.RecordBatch]:
    if kind == "txt":
        return _lines(file)
    if kind in ("jsonl", "json"):
        return json_batches(_whole_lines(file), schema, set() if mixed is None else mixed)
    delimiter, names = _header(file, kind)
    return map(_as_text, _csv(file, names, delimiter, names)) if names else iter(())


def _header(file: BinaryIO, kind: str) -> tuple[str, list[str]]:
    """The delimiter and the column names of a file's first line, which stays unread; no names for an empty file.

    A preceding line such as `sep=;`, which Excel writes and reads, sets the delimiter.
    """
    delimiter, start = DELIMITERS[kind], file.tell()
    first = file.readline(MAX_LINE_BYTES)
    if len(first) == MAX_LINE_BYTES:
        raise pa.ArrowInvalid(f"a line is longer than {MAX_LINE_BYTES >> 20} MB")
    if stated := STATED_DELIMITER.fullmatch(first):
        delimiter, start = stated[1].decode("ascii", "replace"), file.tell()
    elif kind == "csv" and b"," not in first:
        delimiter = next((other for other in OTHER_DELIMITERS if other.encode() in first), delimiter)
    file.seek(start)
    return delimiter, _names(file, start, delimiter)


def _names(file: BinaryIO, start: int, delimiter: str) -> list[str]:
    wrapper = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # Arrow decodes beyond the first line
    if delimiter == TAB:
        lines = csv.reader(wrapper, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        lines = csv.reader(wrapper, delimiter=delimiter)
    names = next(lines, [])
    wrapper.detach()
    file.seek(start)
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise pa.ArrowInvalid(f"has more than one column {repeated!r}")
    return names


def _names_columns(file: BinaryIO) -> bool:
    """Whether a file of prompts begins like a table. Its first line stays unread."""
    start = file.tell()
    names = re.split(rb"[\t,;]", file.readline(MAX_HEADER_BYTES).strip().lower())
    file.seek(start)
    return b"prompt" in [name.strip(b'" ') for name in names]


@lru_cache(maxsize=64)
def _text_schema(*names: str) -> pa.Schema:
    return pa.schema([(name.encode(), pa.string()) for name in names])


def _csv(file: BinaryIO, names: list[str], delimiter: str, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    """The requested columns of a file with a header line, as bytes."""
    with ExitStack() as stack:
        if isinstance(file, io.BytesIO) and len(file.getbuffer()) <= COPIED_BYTES:
            source = copied(file.getbuffer()[file.tell() :])
        else:
            source = stack.enter_context(lent(file))
        yield from stack.enter_context(
            pcsv.open_csv(
                source,
                pcsv.ReadOptions(use_threads=False, block_size=PIECE_BYTES),
                # TSV has no quoting: a quote is part of the prompt.
                pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, quote_char=delimiter != TAB and '"'),
                # Read as bytes, text that is not UTF-8 fails its row rather than the whole file.
                pcsv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()),
                    include_columns=wanted,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        )


def _lines(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    for lines in _whole_lines(file):
        prompts = [line.removesuffix(b"\r") for line in lines.split(b"\n") if line.strip()]
        yield _as_text(pa.record_batch({"prompt": pa.array(prompts, pa.binary())}))


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    while lines := file.read(PIECE_BYTES):
        if not lines.endswith(b"\n"):
            lines += (rest := file.readline(MAX_LINE_BYTES))
            if len(rest) == MAX_LINE_BYTES:
                raise pa.ArrowInvalid(f"a line is longer than {MAX_LINE_BYTES >> 20} MB")
        if lines.strip():
            yield lines


def _as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    texts = [column.cast(pa.string(), safe=False) for column in batch.columns]
    return pa.record_batch(texts, names=batch.schema.names)
