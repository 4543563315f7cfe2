"""Every Parquet type through the real command, alone and nested."""

from __future__ import annotations

import decimal
import json
import tarfile
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdbatch.settings import LAYOUTS
from tests.outputs import write_table

LONG = "text that is too long to stand in the view itself"
D = decimal.Decimal


def leaves() -> dict[str, pa.Array]:
    found = {
        "string_view": pa.array(["a", LONG, None], pa.string_view()),
        "binary_view": pa.array([b"\xff", LONG.encode(), None], pa.binary_view()),
        "large_string": pa.array(["a", LONG, None], pa.large_string()),
        "large_binary": pa.array([b"\xff", b"", None], pa.large_binary()),
        "fixed_binary": pa.array([b"ab", b"cd", None], pa.binary(2)),
        "half": pa.array([np.float16(1.5), np.float16(-2), None], pa.float16()),
        "null": pa.nulls(3),
        "date32": pa.array([1, -1, None], pa.date32()),
        "date64": pa.array([86_400_000, 0, None], pa.date64()),
        "json": pa.array(['{"a": 1}', "[]", None], pa.json_()),
        "uuid": pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes, None], pa.uuid()),
        "texts": pa.array(["x", "y", None]).dictionary_encode(),
        "numbers": pa.array([7, 8, None]).dictionary_encode(),
        "amounts": pa.array([D("1.5"), D("2.5"), None]).dictionary_encode(),
        "time32_s": pa.array([1, 2, None], pa.time32("s")),
        "time32_ms": pa.array([1, 2, None], pa.time32("ms")),
        "time64_us": pa.array([1, 2, None], pa.time64("us")),
        "time64_ns": pa.array([1000, 2000, None], pa.time64("ns")),
    }
    for bits in (32, 64, 128, 256):
        found[f"decimal{bits}"] = pa.array([D("1.5"), D("-2.5"), None], getattr(pa, f"decimal{bits}")(7, 2))
    for unit in ("s", "ms", "us", "ns"):
        found[f"timestamp_{unit}"] = pa.array([1, 2, None], pa.timestamp(unit))
        found[f"zoned_{unit}"] = pa.array([1, 2, None], pa.timestamp(unit, "Europe/Berlin"))
        found[f"duration_{unit}"] = pa.array([1, 2, None], pa.duration(unit))
    return found


def nested(name: str, values: pa.Array) -> dict[str, pa.Array]:
    """Columns of three rows whose innermost values are those three; rows of one, of two, and null or empty."""
    offsets, starts, sizes = pa.array([0, 1, 3, 3], pa.int32()), [0, 1, 0], [1, 2, 0]
    keys = pa.array(["k", LONG, "m"], pa.string_view())
    view = pa.ListViewArray.from_arrays(pa.array(starts, pa.int32()), pa.array(sizes, pa.int32()), values)
    record = pa.StructArray.from_arrays([values, view], ["value", "views"])
    structs = {f"{name}_structs": pa.ListArray.from_arrays(offsets, record)}
    if name in ("string_view", "binary_view"):  # Arrow cannot write these in structs in lists
        structs = {}
    return structs | {
        f"{name}_list": pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, False, True])),
        f"{name}_large_list": pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), values),
        f"{name}_fixed_list": pa.FixedSizeListArray.from_arrays(values, 1, mask=pa.array([False, True, False])),
        f"{name}_list_view": view,
        f"{name}_large_list_view": pa.LargeListViewArray.from_arrays(
            pa.array(starts, pa.int64()), pa.array(sizes, pa.int64()), values
        ),
        f"{name}_struct": record,
        f"{name}_map": pa.MapArray.from_arrays(offsets, keys, values),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_type_is_carried_and_can_be_read(tmp_path, stand_in_command, layout):
    columns = leaves()
    columns |= {name: array for leaf in list(columns) for name, array in nested(leaf, columns[leaf]).items()}
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 3, "seed": [1, 2, 3]} | columns)
    options = ("--steps", 1, "--sampler", "ddim", "--images-per-prompt", 2, "--layout", layout, "--shard-size", 4)
    stand_in_command("generate", prompts, tmp_path / "out", *options)
    before, shards = pq.read_table(prompts), [tmp_path / "out" / f"0000{i}.parquet" for i in (0, 1)]
    after = pa.concat_tables(map(pq.read_table, shards))
    assert after.column("status").to_pylist() == ["ok"] * 6
    for name in columns:
        wanted = [as_bytes(row) if "uuid_" in name else row for row in before.column(name).to_pylist() for _ in "12"]
        found = [as_bytes(row) if "uuid_" in name else row for row in after.column(name).to_pylist()]
        assert found == wanted, name
    assert sum(len(pd.read_parquet(shard)) for shard in shards) == 6
    if layout == "webdataset":
        with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
            row = json.load(tar.extractfile("000000002.json"))
        assert row["string_view_list"] == [LONG, None]
    if layout == "files":
        pd.read_parquet(tmp_path / "out" / "00000" / "metadata.parquet")


def as_bytes(value):
    """UUIDs in lists come out as their bytes."""
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, dict):
        return {key: as_bytes(item) for key, item in value.items()}
    return type(value)(map(as_bytes, value)) if isinstance(value, list | tuple) else value
