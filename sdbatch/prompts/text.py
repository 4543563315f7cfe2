"""Prompt tables in text: CSV and TSV with a header line, JSON Lines, and one prompt a line.

A text file has no footer, so it is read once to be planned (how many rows, which columns), and again to be run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.json as pjson

from sdbatch.errors import InputError
from sdbatch.storage import Store

if TYPE_CHECKING:
    from sdbatch.prompts.inputs import InputFile

__all__ = ["PIECE_BYTES", "TEXT_FORMATS", "common_schema", "describe_text", "text_pieces"]

TEXT_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt"}
DELIMITERS = {"csv": ",", "tsv": "\t"}
PIECE_BYTES = 16 << 20  # read and decoded at a time
MOST_LINE_BYTES = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_text(path: str, kind: str, options: Mapping[str, Any] | None) -> tuple[int, pa.Schema]:
    """Rows and columns of a text file. The columns of CSV and TSV are text, whatever they look like.

    Raises:
        InputError: not what its name says, with the line where that shows.
        StorageError: the store refuses.
    """
    rows, schema = 0, pa.schema([])
    with _opened(path, options) as file:
        for piece in _pieces(file, kind, None):
            rows, schema = rows + piece.num_rows, common_schema([schema, piece.schema])
        if kind in DELIMITERS and not schema.names:
            raise InputError(f"{path}: is empty; its first line must name the columns")
    return rows, pa.schema([("prompt", pa.string())]) if kind == "txt" else schema


def text_pieces(file: InputFile, options: Mapping[str, Any] | None) -> Iterator[pa.RecordBatch]:
    """The file's rows, piece by piece. Raises as `describe_text` does."""
    with _opened(file.path, options) as stream:
        yield from _pieces(stream, file.format, file.schema)


def common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for pieces of JSON that each show some of it: whole numbers and decimals are numbers."""
    return pa.unify_schemas(schemas, promote_options="permissive")


@contextmanager
def _opened(path: str, options: Mapping[str, Any] | None) -> Iterator[BinaryIO]:
    with Store(path, options).open("", block_size=PIECE_BYTES) as file:
        try:
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            yield file
        except (pa.ArrowException, csv.Error, UnicodeError) as exc:
            # repr: the message quotes the file, which may hold anything
            raise InputError(f"{path}: {repr(str(exc).splitlines()[0])[1:-1][:300]}") from exc


def _pieces(file: BinaryIO, kind: str, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    if kind == "txt":
        return _lines(file)
    return _json(file, schema) if kind == "jsonl" else _csv(file, DELIMITERS[kind])


def _csv(file: BinaryIO, delimiter: str) -> Iterator[pa.RecordBatch]:
    start = file.tell()
    wrapper = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # it decodes beyond the first line
    quoting = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    names = next(csv.reader(wrapper, delimiter=delimiter, **quoting), [])
    wrapper.detach()
    file.seek(start)
    if not names:
        return
    if repeated := [name for name in names if names.count(name) > 1]:
        raise pa.ArrowInvalid(f"has more than one column {repeated[0]!r}")
    yield pa.RecordBatch.from_pylist([], pa.schema([(name.encode(), pa.string()) for name in names]))
    reader = pcsv.open_csv(
        pa.PythonFile(file, "r"),
        pcsv.ReadOptions(use_threads=False, block_size=PIECE_BYTES),
        # TSV has no quotes: what looks like one is the prompt's own.
        pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, quote_char=not quoting and '"'),
        # As bytes, text that is not UTF-8 fails with its row and not with the whole file.
        pcsv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), null_values=[""], strings_can_be_null=True),
    )
    with reader:
        for batch in reader:
            yield _as_text(batch)


def _json(file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    parsing = pjson.ParseOptions(explicit_schema=schema)
    for lines in _whole_lines(file):
        reading = pjson.ReadOptions(use_threads=False, block_size=len(lines) + 1)
        table = pjson.read_json(pa.BufferReader(lines), reading, parsing)
        yield from table.combine_chunks().to_batches()


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
