"""Prompt tables as text: CSV and TSV with a header line, JSON Lines, JSON arrays, and one prompt per line.

A text file has no footer, so it is read once to plan (number of rows, columns), and once more to run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.json as pjson
import pyarrow.types as pt

from sdbatch.errors import InputError
from sdbatch.prompts.compressed import DAMAGED, inner_name, unpacked
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.json_arrays import as_lines
from sdbatch.prompts.text_encodings import UTF8, as_utf8, find_encoding
from sdbatch.prompts.wide_numbers import wide_columns
from sdbatch.prompts.wide_tables import refuse_many_keys, refuse_wide
from sdbatch.storage.store import Store

__all__ = [
    "MIXED",
    "PIECE_BYTES",
    "TEXT_FORMATS",
    "common_schema",
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
SAID_DELIMITER = re.compile(rb"sep=(.)\r?\n")
PIECE_BYTES = 16 << 20  # read and decoded at a time
MAX_LINE_BYTES = 64 << 20
# Of text that must be decoded as a whole.
MAX_DECODED_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 256 << 20
DEEPEST = 256  # of nested brackets in JSON
WIDE_WHOLE = pa.decimal128(38, 0)
MIXED = "has both integers beyond 64 bits and fractions, and no type holds both exactly; store them as text"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_text(
    path: str, kind: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> tuple[int, pa.Schema, str, str]:
    """Rows, columns and encoding of a text file, and a note on an unusual delimiter.

    All columns of CSV and TSV are text.

    `content` is the file's content if it has been read already.

    Raises:
        InputError: the file is not what its name says; the message names the line.
        StorageError: the store failed.
    """
    rows, schema, said = 0, pa.schema([]), ""
    encoding = encoding_of(path, options, content)
    with opened_text(path, kind, options, encoding, content) as file:
        if kind in DELIMITERS:
            delimiter, names = _header(file, kind)
            if not names:
                raise InputError(f"{path}: is empty; its first line must name the columns")
            refuse_wide(len(names))
            schema = _text_schema(*names)
            if delimiter != DELIMITERS[kind]:
                said = f"is read with {'tabs' if delimiter == TAB else repr(delimiter)} between its columns"
            rows = sum(batch.num_rows for batch in _csv(file, names, delimiter, names[:1]))
        else:
            for piece in _pieces(file, kind, None):
                rows, schema = rows + piece.num_rows, common_schema([schema, piece.schema])
    return rows, _text_schema("prompt") if kind == "txt" else schema, encoding, said


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


def common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for pieces of JSON with partial schemas; integers and decimals become numbers.

    Raises:
        pa.ArrowInvalid: types are incompatible, or no type holds the numbers exactly.
    """
    common = pa.unify_schemas(schemas, promote_options="permissive")
    for schema in schemas:
        for field in schema:
            if pt.is_decimal(field.type) and not pt.is_decimal(common.field(field.name).type):
                raise pa.ArrowInvalid(f"column {field.name!r} {MIXED}")
    return common


@contextmanager
def _unpacked_text(path: str, options: Mapping[str, Any] | None, content: bytes | None) -> Iterator[BinaryIO]:
    """The file's text, unpacked if it is compressed. Raises `InputError` if it can't be unpacked."""
    source = Store(path, options).open("", block_size=PIECE_BYTES) if content is None else io.BytesIO(content)
    with source as file:
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
    most = MAX_UNPACKED_BYTES if is_packed else MAX_DECODED_BYTES
    text = file.read(most + 1)
    if len(text) > most:
        unpacked_size = " unpacked" * is_packed
        raise pa.ArrowInvalid(f"is larger than {most >> 20:,} MB{unpacked_size}, and not UTF-8; save it as UTF-8")
    return io.BytesIO(text)


def _shown(error: Exception) -> str:
    # repr: the message quotes the file, which may contain anything
    return repr((str(error) or type(error).__name__).splitlines()[0])[1:-1][:300]


def _pieces(file: BinaryIO, kind: str, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    if kind == "txt":
        return _lines(file)
    if kind in ("jsonl", "json"):
        return _json(file, schema)
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
    if said := SAID_DELIMITER.fullmatch(first):
        delimiter, start = said[1].decode("ascii", "replace"), file.tell()
    elif kind == "csv" and b"," not in first:
        delimiter = next((other for other in OTHER_DELIMITERS if other.encode() in first), delimiter)
    file.seek(start)
    return delimiter, _names(file, start, delimiter)


def _names(file: BinaryIO, start: int, delimiter: str) -> list[str]:
    wrapper = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # Arrow decodes beyond the first line
    quoting = {"quoting": csv.QUOTE_NONE} if delimiter == TAB else {}
    names = next(csv.reader(wrapper, delimiter=delimiter, **quoting), [])
    wrapper.detach()
    file.seek(start)
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise pa.ArrowInvalid(f"has more than one column {repeated!r}")
    return names


@lru_cache(maxsize=64)
def _text_schema(*names: str) -> pa.Schema:
    return pa.schema([(name.encode(), pa.string()) for name in names])


def _csv(file: BinaryIO, names: list[str], delimiter: str, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    """The requested columns of a file with a header line, as bytes."""
    start = file.tell()
    if isinstance(file, io.BytesIO):  # read in place; for other files Arrow allocates a whole piece
        source = pa.BufferReader(pa.py_buffer(file.getvalue()).slice(start))
    else:
        source = pa.PythonFile(file, "r")
    reader = pcsv.open_csv(
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
    with reader:
        yield from reader


def _json(file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    line = 1
    for lines in _whole_lines(file):
        _refuse_null(lines, line)
        _refuse_depth(lines)
        if schema is None:
            refuse_many_keys(lines)
        wide = wide_columns(lines, line)
        # By default Arrow reads integers beyond 64 bits as floats.
        known = schema or pa.schema([(name, WIDE_WHOLE) for name in wide])
        reading = pjson.ReadOptions(use_threads=False, block_size=len(lines) + 1)
        try:
            table = pjson.read_json(pa.BufferReader(lines), reading, pjson.ParseOptions(explicit_schema=known))
        except pa.ArrowInvalid as exc:
            if wide and "decimal128" in str(exc):
                name, place = next(iter(wide.items()))
                raise pa.ArrowInvalid(f"line {place:,}: column {name!r} {MIXED}") from exc
            raise
        yield from table.combine_chunks().to_batches()
        line += lines.count(b"\n")


def _refuse_null(lines: bytes, first: int) -> None:
    """Reject null instead of the first object, which crashes the process in Arrow's parser."""
    if found := re.search(rb"^[ \t\r]*null", lines, re.MULTILINE):
        number = first + lines.count(b"\n", 0, found.end())
        raise pa.ArrowInvalid(f'line {number:,} is null; each line must be an object, such as {{"prompt": "a cat"}}')


def _refuse_depth(lines: bytes) -> None:
    """Reject deeply nested brackets: Arrow's recursive parser would overflow the stack."""
    if lines.count(b"[") + lines.count(b"{") <= DEEPEST:
        return
    for line in lines.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(line) > DEEPEST:
            raise pa.ArrowInvalid(f"a line has brackets nested more than {DEEPEST} deep")


def _depth(line: bytes) -> int:
    """The depth of nested brackets; brackets in strings do not count."""
    brackets = re.sub(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]', b"", line)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


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
