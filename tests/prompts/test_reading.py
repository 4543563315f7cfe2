"""Shards read from Parquet files equal the rows that pyarrow reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sdbatch.errors import InputError
from sdbatch.prompts import Piece, check_table, list_inputs, parquet_files, parse, read_rows
from sdbatch.prompts import reading as reading_module
from sdbatch.settings import RunSettings
from tests.tables import write_table


def shards(path: str, ranges: list[tuple[int, int]]) -> list[pa.Table]:
    (file,) = list_inputs(path)
    return list(read_rows(file, check_table([file], RunSettings()), ranges))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 60),
    group=st.integers(1, 20),
    cuts=st.sets(st.integers(0, 60)),
    skipped=st.sets(st.integers(0, 9)),
)
def test_any_ranges_of_any_row_groups(tmp_path: Path, rows: int, group: int, cuts: set[int], skipped: set[int]) -> None:
    path = write_table(
        tmp_path / "p.parquet",
        {"prompt": [f"p{i}" for i in range(rows)], "nested": [{"x": [i]} for i in range(rows)]},
        row_group_size=group,
    )
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    ranges = [(a, b - a) for n, (a, b) in enumerate(itertools.pairwise(edges)) if n not in skipped]
    whole = pq.read_table(path)
    for (first, count), table in zip(ranges, shards(path, ranges), strict=True):
        assert table.equals(whole.slice(first, count))


def test_one_row_group_of_many_rows_is_decoded_once_and_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 20_000
    path = write_table(tmp_path / "p.parquet", {"prompt": [f"{i} " + "x" * 500 for i in range(rows)]})
    decoded: list[int] = []
    iterate = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: object, **kwargs: object):
        for batch in iterate(self, *args, **kwargs):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(parquet_files, "PIECE_BYTES", 1 << 20)
    tables = shards(path, [(first, 100) for first in range(0, rows, 100)])
    assert pa.concat_tables(tables).equals(pq.read_table(path))
    assert sum(decoded) == rows + 1  # the first row is read once more, to see whether the chunks are sound
    assert max(decoded) < 4000  # about 1 MB of 500-byte prompts


def test_only_needed_columns_are_read_whatever_their_names(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "p.parquet",
        {"prompt.en": ["no"], "prompt": ["yes"], "a": [{"b": 1}], "a.b": [2], "": [3], "blob": [b"x" * 1000]},
    )
    (file,) = list_inputs(path)
    columns = check_table([file], RunSettings())
    (table,) = read_rows(file, columns, [(0, 1)])
    assert table.equals(pq.read_table(path).select(columns.needed))
    (table,) = read_rows(file, columns.without_carried(), [(0, 1)])
    assert table.to_pylist() == [{"prompt": "yes"}]


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "p.parquet", {"prompt": ["a"] * 3})
    (file,) = list_inputs(path)
    columns = check_table([file], RunSettings())
    write_table(tmp_path / "p.parquet", {"prompt": ["a"] * 2})
    with pytest.raises(InputError, match=r"p\.parquet: has changed since the run was planned"):
        list(read_rows(file, columns, [(0, 3)]))


def test_a_damaged_page_is_an_input_error(tmp_path: Path) -> None:
    path = Path(write_table(tmp_path / "p.parquet", {"prompt": [f"{i}" * 50 for i in range(3000)]}))
    data = bytearray(path.read_bytes())
    data[100:4000] = bytes(3900)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"p\.parquet: is truncated or damaged"):
        shards(str(path), [(0, 3000)])


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 20_000
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * (2 << 20)]))
    path = write_table(
        tmp_path / "p.parquet",
        pa.table({"prompt": ["a"] * rows, "bomb": bomb}),
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=1 << 30,
    )
    assert Path(path).stat().st_size < 5000
    monkeypatch.setattr(parquet_files, "MAX_PIECE_BYTES", 16 << 20)
    monkeypatch.setattr(reading_module, "MAX_TABLE_BYTES", 64 << 20)
    (file,) = list_inputs(path)
    columns = check_table([file], RunSettings())
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"p\.parquet: rows 0 to \d+ hold more than .*--shard-size"):
        next(read_rows(file, columns, [(0, 10_000)]))
    assert pa.default_memory_pool().max_memory() - before < 200 << 20
    (table,) = read_rows(file, columns.without_carried(), [(0, rows)])
    assert table.num_rows == rows


def test_types_nested_deeper_than_arrow_goes_are_refused(tmp_path: Path) -> None:
    deep = pa.int8()
    for _ in range(120):
        deep = pa.list_(deep)
    path = write_table(tmp_path / "p.parquet", pa.table({"prompt": ["a"], "deep": pa.nulls(1, deep)}))
    with pytest.raises(InputError, match=r"p\.parquet: .*too deeply nested"):
        list_inputs(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(1, 2600), st.integers(1, 255)), min_size=1, max_size=8),
    cut=st.sampled_from([0] * 9 + [1, 20]),
)
@example([(747, 70), (621, 37), (1533, 51), (610, 7), (710, 50), (1334, 5)], 0)  # pyarrow ended the process
def test_a_damaged_file_is_refused_or_read_but_never_more(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int
) -> None:
    table = pa.table({"prompt": [f"p{i}" for i in range(50)], "tags": [["x", None]] * 50, "steps": list(range(50))})
    path = Path(write_table(tmp_path / "p.parquet", table, row_group_size=20, compression="zstd"))
    data = bytearray(path.read_bytes())
    for place, change in changes:
        data[-min(place, len(data))] ^= change  # most of the places lie in the footer
    path.write_bytes(data[: len(data) - cut])
    try:
        (file,) = list_inputs(str(path))
        columns = check_table([file], RunSettings())
        for table in read_rows(file, columns, [(0, file.rows)] if file.rows < 10_000 else []):
            parse(table, columns, RunSettings(), [Piece(0, 0, table.num_rows)])
    except InputError as error:
        assert str(path) in str(error)
