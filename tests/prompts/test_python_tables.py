"""Tables that Python gives: each kind of object makes the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdbatch.errors import InputError, UsageError
from sdbatch.prompts import Piece, check_table, list_inputs, parse, read_rows
from sdbatch.prompts.python_tables import same_rows, written
from sdbatch.settings import RunSettings

FRAME = pd.DataFrame({"prompt": ["a red circle", "ein Würfel", None], "seed": pd.array([1, None, 2**63], "UInt64")})
TABLE = pa.Table.from_pandas(FRAME, preserve_index=False)


class Stream:
    """What gives nothing but an Arrow stream, as a polars frame does."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


OBJECTS: dict[str, Any] = {
    "pandas": FRAME.set_index(pd.Index([5, 6, 7], name="left out")),
    "Arrow": TABLE,
    "stream": Stream(TABLE),
    "datasets": datasets.Dataset(TABLE),
    "shuffled": datasets.Dataset(TABLE.take([2, 0, 1])).select([1, 2, 0]),
    "dicts": TABLE.to_pylist(),
    "DuckDB": duckdb.from_arrow(TABLE),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_each_object_makes_the_same_file(name):
    with written(TABLE) as expected, written(OBJECTS[name]) as given:
        assert given.sha256 == expected.sha256
        assert pq.read_table(given.path).to_pylist() == TABLE.to_pylist()
    assert not Path(given.path).exists()


def test_lists():
    with written(["a", "b"]) as given:
        assert pq.read_table(given.path).to_pydict() == {"prompt": ["a", "b"]}
    with written([{"prompt": "a"}, {"steps": 3, "prompt": "b"}]) as given:
        assert pq.read_table(given.path).to_pydict() == {"prompt": ["a", "b"], "steps": [None, 3]}
    seeds = [-1, 2**64 - 1, None, 0]
    with written([{"prompt": "a", "seed": seed} for seed in seeds]) as given:
        (file,) = list_inputs(given.path)
        columns = check_table([file], RunSettings())
        (table,) = read_rows(file, columns, [(0, 4)])
        made = parse(table, columns, RunSettings(), [Piece(0, 0, 4)])
        assert [row.error for row in made] == [None] * 4
        assert [made[i].requests[0].seed for i in (1, 3)] == [2**64 - 1, 0]
    with written([]) as given:
        assert list_inputs(given.path)[0].rows == 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (5, UsageError, "prompts is a int; expected a path, or a table"),
        (["a", 5], UsageError, r"prompts\[1\] is a int; expected a list of texts, or of dicts"),
        ([{"prompt": "a", "steps": 5}, {"steps": "x"}], InputError, "the given table: column 'steps'"),
        ([{"prompt": "a", "seed": 2**70}], InputError, "the given table: column 'seed'"),
        ([{5: "a"}], UsageError, "prompts has the key 5"),
        (
            pd.DataFrame({"prompt": ["a", 5]}),
            InputError,
            "given table: Conversion failed for column prompt .*: Exp",
        ),
        (pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}), InputError, "the given table: Sparse pandas data"),
        (pd.Series(["a cat", "a dog"]), UsageError, "prompts is a Series; expected a path, or a table"),
        (datasets.DatasetDict({"train": datasets.Dataset(TABLE)}), UsageError, "name one of 'train'"),
    ],
)
def test_what_is_no_table(given, error, words):
    with pytest.raises(error, match=words) as told, written(given):
        pass
    assert "\n" not in str(told.value)


def test_equal_rows_are_known_whatever_wrote_them(tmp_path):
    other = pa.table({"prompt": ["a", "c"], "x": [float("nan"), None]})
    table = pa.table({"prompt": ["a", "b"], "x": [float("nan"), None]})
    for name, content, options in (("1", table, {"compression": "snappy"}), ("2", table, {}), ("3", other, {})):
        pq.write_table(content, tmp_path / name, use_dictionary=name == "1", **options)
    assert same_rows(tmp_path / "1", tmp_path / "2")
    assert not same_rows(tmp_path / "1", tmp_path / "3")


@pytest.mark.parametrize("table", [["\ud800"], [{"prompt": "a", "note": "\ud800"}], [{"prompt": "a", "n": 2**70}]])
def test_values_that_a_file_cannot_hold_are_an_error_of_the_table(table):
    with pytest.raises(InputError, match="the given table: "), written(table):
        pass
