"""Prompt tables in text: CSV and TSV with a header line, JSON Lines, arrays of JSON, and one prompt a line.

A text file has no footer, so it is read once to be planned (how many rows, which columns), and again to be run.
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
# Of a CSV whose header line has no comma. Excel writes semicolons where a comma stands in decimals.
OTHER_DELIMITERS = (";", TAB)
SAID_DELIMITER = re.compile(rb"sep=(.)\r?\n")
PIECE_BYTES = 16 << 20  # read and decoded at a time
MOST_LINE_BYTES = 64 << 20
MOST_UNPACKED_BYTES = 256 << 20  # of compressed text that has to be decoded whole
DEEPEST = 256  # brackets inside of one another, in JSON
WIDE_WHOLE = pa.decimal128(38, 0)
MIXED = "holds whole numbers beyond 64 bits beside fractions, which no type holds exactly; store them as text"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_text(
    path: str, kind: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> tuple[int, pa.Schema, str, str]:
    """Rows, columns and encoding of a text file, and how it is read where its name does not say.

    The columns of CSV and TSV are text, whatever they look like.

    `content` is the file's own, where it is known.

    Raises:
        InputError: not what its name says, with the line where that shows.
        StorageError: the store refuses.
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
    """The file's rows, piece by piece; `content` is its own, where it is known. Raises as `describe_text` does."""
    with opened_text(file.path, file.format, options, file.encoding, content) as stream:
        yield from _pieces(stream, file.format, file.own_schema)


def common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for pieces of JSON that each show some of it: whole numbers and decimals are numbers.

    Raises:
        pa.ArrowInvalid: types that do not go together, or numbers that no type holds exactly.
    """
    common = pa.unify_schemas(schemas, promote_options="permissive")
    for schema in schemas:
        for field in schema:
            if pt.is_decimal(field.type) and not pt.is_decimal(common.field(field.name).type):
                raise pa.ArrowInvalid(f"column {field.name!r} {MIXED}")
    return common


@contextmanager
def _unpacked_text(path: str, options: Mapping[str, Any] | None, content: bytes | None) -> Iterator[BinaryIO]:
    """The file's text, whether it is compressed or not. Raises `InputError` over one that can't be unpacked."""
    source = Store(path, options).open("", block_size=PIECE_BYTES) if content is None else io.BytesIO(content)
    with source as file:
        try:
            yield unpacked(path, file)
        except (*DAMAGED, OSError) as exc:
            if inner_name(path) == path:
                raise
            raise InputError(f"{path}: is damaged, or not packed as its name says ({_shown(exc)})") from exc


@contextmanager
def opened_text(
    path: str, kind: str, options: Mapping[str, Any] | None, encoding: str, content: bytes | None = None
) -> Iterator[BinaryIO]:
    """The file's text, unpacked, in UTF-8 and without a mark. Raises `InputError`, `StorageError`."""
    with _unpacked_text(path, options, content) as file:
        try:
            if encoding != UTF8:
                file = as_utf8(file if inner_name(path) == path else _bounded(file), encoding)
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            yield as_lines(file) if kind == "json" else file
        except (pa.ArrowException, csv.Error, UnicodeError) as exc:
            raise InputError(f"{path}: {_shown(exc)}") from exc


def _bounded(file: BinaryIO) -> BinaryIO:
    """A compressed file's text in memory, which a small file may fill."""
    text = file.read(MOST_UNPACKED_BYTES + 1)
    if len(text) > MOST_UNPACKED_BYTES:
        raise pa.ArrowInvalid(
            f"is larger than {MOST_UNPACKED_BYTES >> 20} MB unpacked, and not UTF-8; save it as UTF-8"
        )
    return io.BytesIO(text)


def _shown(error: Exception) -> str:
    # repr: the message quotes the file, which may hold anything
    return repr((str(error) or type(error).__name__).splitlines()[0])[1:-1][:300]


def _pieces(file: BinaryIO, kind: str, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    if kind == "txt":
        return _lines(file)
    if kind in ("jsonl", "json"):
        return _json(file, schema)
    delimiter, names = _header(file, kind)
    return map(_as_text, _csv(file, names, delimiter, names)) if names else iter(())


def _header(file: BinaryIO, kind: str) -> tuple[str, list[str]]:
    """What stands between the names in the first line of a file, which is left there; and the names, none of an empty
    one. A line `sep=;` before it, which Excel writes and reads, says what stands there.
    """
    delimiter, start = DELIMITERS[kind], file.tell()
    first = file.readline(MOST_LINE_BYTES)
    if len(first) == MOST_LINE_BYTES:
        raise pa.ArrowInvalid(f"a line is longer than {MOST_LINE_BYTES >> 20} MB")
    if said := SAID_DELIMITER.fullmatch(first):
        delimiter, start = said[1].decode("ascii", "replace"), file.tell()
    elif kind == "csv" and b"," not in first:
        delimiter = next((other for other in OTHER_DELIMITERS if other.encode() in first), delimiter)
    file.seek(start)
    return delimiter, _names(file, start, delimiter)


def _names(file: BinaryIO, start: int, delimiter: str) -> list[str]:
    wrapper = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # it decodes beyond the first line
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
    """The wanted columns of a file that begins with its names, as bytes."""
    start = file.tell()
    if isinstance(file, io.BytesIO):  # read where it lies; of any other, Arrow makes room for a whole piece
        source = pa.BufferReader(pa.py_buffer(file.getvalue()).slice(start))
    else:
        source = pa.PythonFile(file, "r")
    reader = pcsv.open_csv(
        source,
        pcsv.ReadOptions(use_threads=False, block_size=PIECE_BYTES),
        # TSV has no quotes: what looks like one is the prompt's own.
        pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, quote_char=delimiter != TAB and '"'),
        # As bytes, text that is not UTF-8 fails with its row and not with the whole file.
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
        # Without being told, Arrow takes whole numbers beyond 64 bits for floats.
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
    """Arrow's parser crashes the process over a null where the first object should be."""
    if found := re.search(rb"^[ \t\r]*null", lines, re.MULTILINE):
        number = first + lines.count(b"\n", 0, found.end())
        raise pa.ArrowInvalid(f'line {number:,} is null; each line must be an object, such as {{"prompt": "a cat"}}')


def _refuse_depth(lines: bytes) -> None:
    """Arrow's parser calls itself for every bracket, until the process has no stack left."""
    if lines.count(b"[") + lines.count(b"{") <= DEEPEST:
        return
    for line in lines.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(line) > DEEPEST:
            raise pa.ArrowInvalid(f"a line has brackets nested more than {DEEPEST} deep")


def _depth(line: bytes) -> int:
    """How deep brackets are nested; those inside of texts do not count."""
    brackets = re.sub(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]', b"", line)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


def _lines(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    for lines in _whole_lines(file):
        prompts = [line.removesuffix(b"\r") for line in lines.split(b"\n") if line.strip()]
        yield _as_text(pa.record_batch({"prompt": pa.array(prompts, pa.binary())}))


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    while lines := file.read(PIECE_BYTES):
        if not lines.endswith(b"\n"):
            lines += (rest := file.readline(MOST_LINE_BYTES))
            if len(rest) == MOST_LINE_BYTES:
                raise pa.ArrowInvalid(f"a line is longer than {MOST_LINE_BYTES >> 20} MB")
        if lines.strip():
            yield lines


def _as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    texts = [column.cast(pa.string(), safe=False) for column in batch.columns]
    return pa.record_batch(texts, names=batch.schema.names)
