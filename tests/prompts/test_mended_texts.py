"""Carried texts that are not UTF-8 are mended, and counted where they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from sdbatch.prompts import check_table, list_inputs, mended_texts, read_rows, read_table
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.types import as_plain, plain_schema
from sdbatch.settings import RunSettings
from tests.tables import write_table

BAD, MENDED = b"\xffa\xfe", "\ufffda\ufffd"


def texts(values: list[bytes | None], large: bool = False) -> pa.Array:
    """Text that has not been validated."""
    binary = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(values), binary.buffers())


FOUR = [BAD, None, b"fine", BAD]
OFFSETS = pa.array([0, 3, 3, 4], pa.int32())
COLUMNS = {
    "text": (texts(FOUR[:3]), [1, 0, 0]),
    "large": (texts(FOUR[1:], large=True), [0, 0, 1]),
    "list": (pa.ListArray.from_arrays(OFFSETS, texts(FOUR)), [1, 0, 1]),
    "large_list": (pa.LargeListArray.from_arrays(OFFSETS.cast(pa.int64()), texts(FOUR)), [1, 0, 1]),
    "fixed_list": (pa.FixedSizeListArray.from_arrays(texts([*FOUR, BAD, b""]), 2), [1, 1, 1]),
    "struct": (pa.StructArray.from_arrays([texts(FOUR[:3]), texts(FOUR[1:])], ["a", "b"]), [1, 0, 1]),
    "map": (pa.MapArray.from_arrays(OFFSETS, texts([BAD, b"k", b"l", b"m"]), texts(FOUR)), [2, 0, 1]),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), texts([b'"\xff"', b"1", None])), [1, 0, 0]),
    "json_list": (
        pa.ListArray.from_arrays(
            OFFSETS, pa.ExtensionArray.from_storage(pa.json_(), texts([b'"\xff"', b"1", None, b'"\xff"']))
        ),
        [1, 0, 1],
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_each_row_s_texts_are_counted_once_whatever_is_read_together(tmp_path: Path, name: str) -> None:
    column, counts = COLUMNS[name]
    path = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b", "c"], "note": column}, store_schema=True)
    (file,) = list_inputs(path)
    columns = check_table([file], RunSettings())
    for planned in (columns, columns.with_carried_texts()):
        assert [mended_texts(table) for table in read_rows(file, planned, [(i, 1) for i in range(3)])] == counts
        (table,) = read_rows(file, planned, [(0, 3)])
        assert mended_texts(table) == sum(counts)
        table.validate(full=True)
        said = json.dumps(table["note"].to_pylist(), default=str, ensure_ascii=False)
        assert "\ufffd" in said and table.schema.field("note").type == columns.schema.field("note").type
    (table,) = read_rows(file, columns.without_carried(), [(0, 3)])
    assert mended_texts(table) == 0


def test_a_span_of_several_files_has_the_sum(tmp_path: Path) -> None:
    for name in "ab":
        write_table(tmp_path / "in" / f"{name}.parquet", {"prompt": ["a", "b", "c"], "note": texts(FOUR[:3])})
    files = list_inputs(str(tmp_path / "in"))
    (table,) = read_table(files, check_table(files, RunSettings()), [[Piece(0, 0, 3), Piece(1, 0, 3)]])
    assert mended_texts(table) == 2 and table["note"].to_pylist() == [MENDED, None, "fine"] * 2


def test_a_dictionary_stays_ordered_and_is_counted_by_row() -> None:
    """As Arrow reads it of a file whose dictionary it does not check."""
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 0]), texts([BAD, b"x"]), ordered=True)
    batch = pa.record_batch({"note": column})
    plain, mended = as_plain(batch, plain_schema(batch.schema), ("note",))
    assert plain.schema == batch.schema and plain["note"].type.ordered
    assert plain["note"].to_pylist() == ["x", MENDED, None, MENDED] and mended.tolist() == [0, 1, 0, 1]
