"""Arrow's list views, whose values may lie on top of each other, and run-end-encoded columns."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import check_table, list_inputs, read_rows, reading, unfolded_sizes
from sdbatch.settings import RunSettings
from tests.prompts.test_text import rows


def arrow_file(path, column):
    table = pa.table({"prompt": pa.array(["a cat"] * len(column)), "x": column})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


def all_over(values, lists):
    """List views that each hold all of the values."""
    starts, sizes = np.zeros(lists, np.int32), np.full(lists, len(values), np.int32)
    return pa.ListViewArray.from_arrays(pa.array(starts), pa.array(sizes), values)


@pytest.mark.parametrize("inside", [lambda view: view, lambda view: pa.StructArray.from_arrays([view], ["views"])])
def test_lists_that_lie_on_top_of_each_other(tmp_path, monkeypatch, inside):
    monkeypatch.setattr(reading, "MAX_TABLE_BYTES", 4 << 20)
    monkeypatch.setattr(unfolded_sizes, "MAX_PIECE_BYTES", 1 << 20)
    path = arrow_file(tmp_path / "p.arrow", inside(all_over(pa.array(range(10_000)), 20_000)))  # 1.6 GB
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"rows 0 to [\d,]+ hold more than"):
        rows(path, shard=10_000)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20 and pa.total_allocated_bytes() - before < 64 << 20
    tracemalloc.stop()
    (file,) = list_inputs(str(path))
    (table,) = read_rows(file, check_table([file], RunSettings()), [(19_990, 3)])
    assert table.num_rows == 3 and str(table.column("x")[2].as_py()).count("9999") == 1


def test_a_value_without_bounds_is_refused(tmp_path):
    column = pa.array([1] * 1000, pa.int8())
    for _ in range(4):
        column = all_over(column, 1000)  # 10^15 values in 40 KB
    with pytest.raises(InputError, match=r"p\.arrow: holds a value of more than 1 GB in column 'x'"):
        rows(arrow_file(tmp_path / "p.arrow", column))


@pytest.mark.parametrize(("start", "size"), [(-5, 2), (3, 2**31 - 1), (0, -1), (2**30, 4)])
def test_views_of_nothing_are_refused(tmp_path, start, size):
    column = pa.ListViewArray.from_arrays(pa.array([start], pa.int32()), pa.array([size], pa.int32()), pa.array([1, 2]))
    with pytest.raises(InputError, match=r"p\.arrow: is not Arrow's format, or damaged"):
        rows(arrow_file(tmp_path / "p.arrow", column))


def test_views_at_any_depth_are_read(tmp_path):
    texts = pa.array(["a", "text that is too long to stand in the view itself", None], pa.string_view())
    lists = pa.array([[[1], None], [], [[2, 3]]], pa.list_view(pa.large_list_view(pa.int64())))
    pairs = pa.MapArray.from_arrays([0, 1, 2, 3], pa.array(["k", "l", "m"]), lists)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2)
    column = pa.StructArray.from_arrays([texts, lists, pairs, fixed], ["texts", "lists", "pairs", "fixed"])
    path = arrow_file(tmp_path / "p.arrow", pa.concat_arrays([column, column]).slice(2, 3))
    (file,) = list_inputs(str(path))
    (table,) = read_rows(file, check_table([file], RunSettings()), [(0, 3)])
    assert table.column("x").to_pylist() == [column[i].as_py() for i in (2, 0, 1)]


def test_a_run_end_encoded_column_is_refused_by_name(tmp_path):
    texts = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["u", "w"]))
    with pytest.raises(InputError, match=r"p\.arrow: column 'x' holds run_end_encoded<.*>, which Parquet cannot store"):
        rows(arrow_file(tmp_path / "p.arrow", texts))
