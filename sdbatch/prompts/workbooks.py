"""Excel workbooks: the first visible sheet, with the columns' names in its first row, every cell as text, as in CSV."""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.prompts.input_file import InputFile
from sdbatch.storage.store import Store

__all__ = ["FORMAT", "WORKBOOK_SUFFIX", "describe_workbook", "workbook_batches"]

FORMAT = "xlsx"
WORKBOOK_SUFFIX = ".xlsx"
MAX_BYTES = 128 << 20
MAX_UNPACKED_BYTES = 256 << 20
MAX_CELLS = 8_000_000  # of the rectangle that holds all cells of a sheet, which is in memory whole
MAX_FILES = 10_000
PIECE = 1 << 20
PIECE_ROWS = 4096
PLACE = re.compile(rb"""\br\s*=\s*["']\s*([A-Za-z]{0,3})(\d{1,10})""")
# A formula without a value after it, as written by programs that do not calculate.
FORMULA = re.compile(rb"<f\b[^>]*(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>|</c>)")
MAX_FORMULA_LENGTH = 8192
MAX_TEXT_BYTES = 512 << 20  # of a sheet's cells, which may all refer to one long text
SHARED_TEXTS = "sharedstrings.xml"
VALUE = re.compile(rb"<(?:\w+:)?v\b[^>]*>\s*(\d{1,9})\s*<")
MAX_END_BYTES = 64
TEXT_END = re.compile(rb"</(?:\w+:)?si\s*>")
EXACT = 2**53  # numbers are floats


def describe_workbook(
    path: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> tuple[int, pa.Schema, str]:
    """Rows and columns of a workbook, and a note on what is not read: other sheets, formulas without results.

    Raises:
        InputError: it is not a workbook, is too large once unpacked, or its first row does not name the columns.
        StorageError: the store failed.
    """
    names, rows, note = _sheet(path, _content(path, options, content))
    return sum(1 for _ in rows), pa.schema([(name.encode(), pa.string()) for name in names]), note


def workbook_batches(
    file: InputFile, options: Mapping[str, Any] | None, content: bytes | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows, piece by piece. Raises as `describe_workbook` does."""
    _, rows, _ = _sheet(file.path, _content(file.path, options, content))
    while piece := list(islice(rows, PIECE_ROWS)):
        columns = [pa.array(column, pa.string()) for column in zip(*piece, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=file.own_schema)


def _content(path: str, options: Mapping[str, Any] | None, content: bytes | None) -> bytes:
    if content is None:
        content = Store(path, options).head("", MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MB, and a workbook is read whole; save it as CSV")
    return content


def _sheet(path: str, content: bytes) -> tuple[list[str], Iterator[list[str | None]], str]:
    """The columns' names, the rows without empty ones, and a note on what is not read."""
    try:  # imported here, so that no other table waits for it
        from python_calamine import CalamineError, CalamineWorkbook, SheetVisibleEnum
    except ImportError as exc:
        raise InputError(
            f"{path}: workbooks are read with python-calamine, which is not installed on this machine"
        ) from exc
    has_formulas = _refuse_bombs(path, content)
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(content))
        visible = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
        if not visible:
            raise InputError(f"{path}: has no visible sheet")
        rows = book.get_sheet_by_name(visible[0]).iter_rows()
    except (CalamineError, OSError, ValueError, zipfile.BadZipFile) as exc:
        raise InputError(f"{path}: is not an Excel workbook, or damaged ({_one_line(exc)})") from exc
    header = next((row for row in rows if any(_text(cell) is not None for cell in row)), None)
    if header is None:
        raise InputError(f"{path}: its first sheet {visible[0]!r} is empty; its first row must name the columns")
    names = [_text(cell) or "" for cell in header]
    others = len(visible) - 1
    notes = [f"is read from its first sheet, {visible[0]!r}; its {others} other{'s' * (others > 1)} left out"] * bool(
        others
    )
    if has_formulas:
        notes.append("has formulas without results, which are read as empty cells; save it with Excel or LibreOffice")
    return _named(path, names), _rows(path, names, rows), "; it ".join(notes)


def _named(path: str, names: list[str]) -> list[str]:
    named = [name for name in names if name]
    if not named:
        raise InputError(f"{path}: its first row must name the columns")
    if repeated := next((name for name in named if named.count(name) > 1), None):
        raise InputError(f"{path}: has more than one column {repeated!r}")
    return named


def _rows(path: str, names: list[str], rows: Iterator[list[Any]]) -> Iterator[list[str | None]]:
    for cells in rows:
        texts = [_text(cell) for cell in cells]
        if any(text is not None for text in texts):
            if any(text is not None and not name for text, name in zip(texts, names, strict=True)):
                value = next(text for text, name in zip(texts, names, strict=True) if text is not None and not name)
                raise InputError(f"{path}: the value {value[:40]!r} is in a column without a name in the first row")
            yield [text for text, name in zip(texts, names, strict=True) if name]


def _text(cell: Any) -> str | None:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < EXACT else repr(cell)
    if isinstance(cell, dt.date | dt.time):
        return cell.isoformat()
    return str(cell) or None


def _refuse_bombs(path: str, content: bytes) -> bool:
    """Unpack a workbook piece by piece, without keeping it, before it is read whole.

    Returns whether it has formulas without results.

    The sizes that it states for its parts may be false. Its cells are held as one rectangle, which two cells
    in opposite corners make huge.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            parts = book.infolist()
            if len(parts) > MAX_FILES:
                raise InputError(f"{path}: holds {len(parts):,} files, more than any workbook has")
            total, has_formulas = 0, False
            lengths = _text_lengths(
                next((p for p in parts if p.filename.lower().endswith(SHARED_TEXTS)), None), content
            )
            for part in parts:
                rows, columns, texts, tail = 0, 0, 0, b""
                for piece in _unpacked(part, content):
                    total += len(piece)
                    if total > MAX_UNPACKED_BYTES:
                        raise InputError(
                            f"{path}: is larger than {MAX_UNPACKED_BYTES >> 20} MB unpacked; save it as CSV or Parquet"
                        )
                    whole = tail + piece
                    for letters, digits in PLACE.findall(whole):
                        rows, columns = max(rows, int(digits)), max(columns, _column(letters))
                    if len(lengths):
                        numbers = np.array(VALUE.findall(piece), "S9").astype(np.int64)
                        texts += int(lengths[numbers[numbers < len(lengths)]].sum())
                    if texts > MAX_TEXT_BYTES:
                        raise InputError(
                            f"{path}: its cells hold more than {MAX_TEXT_BYTES >> 20} MB of text; save it as Parquet"
                        )
                    has_formulas = has_formulas or FORMULA.search(whole) is not None
                    tail = piece[-MAX_FORMULA_LENGTH:]
                if rows * columns > MAX_CELLS:
                    raise InputError(
                        f"{path}: its cells spread over {rows:,} rows and {columns:,} columns, more than can be "
                        "held in memory; delete what is far from the table, or save it as CSV"
                    )
            return has_formulas
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as exc:
        raise InputError(f"{path}: is not an Excel workbook, or damaged ({_one_line(exc)})") from exc


def _text_lengths(part: zipfile.ZipInfo | None, content: bytes) -> np.ndarray:
    """The length, with markup, of each text that cells refer to by its number."""
    if part is None:
        return np.array([], np.int64)
    ends, at, tail = [0], 0, b""
    for piece in _unpacked(part, content):
        whole = tail + piece
        ends += [at - len(tail) + mark.end() for mark in TEXT_END.finditer(whole) if mark.end() > len(tail)]
        at, tail = at + len(piece), whole[-MAX_END_BYTES:]
        if at > MAX_UNPACKED_BYTES:
            break  # refused by its size
    return np.diff(np.array(ends, np.int64))


def _unpacked(part: zipfile.ZipInfo, content: bytes) -> Iterator[bytes]:
    """A part's content, whatever length the archive states."""
    start = part.header_offset + 30
    if start > len(content):
        raise zipfile.BadZipFile("a part is outside the file")
    name, extra = (int.from_bytes(content[start - at : start - at + 2], "little") for at in (4, 2))
    packed = memoryview(content)[start + name + extra :][: part.compress_size]
    if part.compress_type == zipfile.ZIP_STORED:
        yield from (bytes(packed[at : at + PIECE]) for at in range(0, len(packed), PIECE))
        return
    if part.compress_type != zipfile.ZIP_DEFLATED:
        raise zipfile.BadZipFile("a part is packed by an unusual method")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    piece = inflater.decompress(packed, PIECE)
    while piece:
        yield piece
        piece = inflater.decompress(inflater.unconsumed_tail, PIECE)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = 26 * number + letter - 64
    return number


def _one_line(exc: Exception) -> str:
    return repr((str(exc) or type(exc).__name__).splitlines()[0])[1:-1][:200]
