"""For any content of an output, its readers end with an exit status and one line, and write nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.settings import LAYOUTS
from tests.fuzz.hostile import TEXTS, assert_told, changed, damaged, encoded, fuzzed
from tests.output.writing import write_output
from tests.tables import write_table

READERS = ("status", "verify", "gallery", "sheet", "plan")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """Outputs of each layout, and their table."""
    folder = tmp_path_factory.mktemp("fuzz")
    prompts = write_table(folder / "p.parquet", {"prompt": ["a", "b", "", "d"], "id": [1, 2, 3, 4]})
    for layout in LAYOUTS:
        write_output(str(folder / layout), prompts, shard_rows=2, layout=layout)
    return folder


@pytest.fixture
def out(outputs, tmp_path) -> Path:
    for path in outputs.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    (tmp_path / "sheet.png").touch()
    return tmp_path


def read(folder: Path, layout: str, reader: str) -> None:
    out = folder / layout
    arguments = {"sheet": ("sheet", out, folder / "sheet.png"), "plan": ("plan", folder / "p.parquet", out)}
    more = ("--layout", layout) if reader == "plan" else ()
    assert_told(folder, *map(str, (*arguments.get(reader, (reader, out)), *more)))


def with_file(folder: Path, layout: str, name: str, data: bytes, reader: str) -> None:
    """Read an output in which one file is another, and put back what was there."""
    path = folder / layout / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    try:
        read(folder, layout, reader)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@pytest.mark.parametrize("name", ["run.json", "00000_stats.json"])
@fuzzed
@given(data=st.data(), layout=st.sampled_from(LAYOUTS), reader=st.sampled_from(READERS))
def test_manifests_and_markers(out, name, data, layout, reader):
    document = json.loads((out / layout / name).read_text())
    content = data.draw(changed(document).map(encoded) | damaged(encoded(document)))
    with_file(out, layout, name, content, reader)


@fuzzed
@given(data=st.data(), reader=st.sampled_from(READERS), name=st.sampled_from(["engine", "inputs-0001", "replaced"]))
def test_files_that_extend_a_manifest(out, data, reader, name):
    record = json.loads((out / "files" / "run.json").read_text())
    engine = {"device": "cpu", "dtype": "fp32", "lanes": 4}
    more = {"run": record["id"], "inputs": record["inputs"], "starts": [1], "engine": engine, "versions": {}}
    with_file(out, "files", f"{name}.json", encoded(data.draw(changed(more))), reader)


@fuzzed
@given(data=st.data(), layout=st.sampled_from(LAYOUTS), reader=st.sampled_from(READERS))
def test_metadata(out, data, layout, reader):
    table = pq.read_table(out / layout / "00000.parquet")
    place = data.draw(st.integers(0, table.num_columns - 1))
    name = data.draw(st.sampled_from([table.column_names[place], *table.column_names]) | TEXTS)
    kinds = (TEXTS.filter(is_utf8), st.integers(-9, 2**40), st.floats(), st.booleans(), st.binary(max_size=4))
    values = data.draw(st.sampled_from(kinds).flatmap(lambda kind: st.lists(st.none() | kind, min_size=2, max_size=2)))
    if is_utf8(name):
        changed_table = table.set_column(place, name, pa.array(values))
        sink = pa.BufferOutputStream()
        pq.write_table(changed_table, sink)
        with_file(out, layout, "00000.parquet", sink.getvalue().to_pybytes(), reader)


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@fuzzed
@given(data=st.data(), reader=st.sampled_from(READERS))
def test_files_of_shards(out, data, reader):
    layout, name = data.draw(
        st.sampled_from(
            [
                ("files", "00000.parquet"),
                ("files", "00000/000000000.png"),
                ("files", "00000/metadata.parquet"),
                ("parquet", "00000.parquet"),
                ("webdataset", "00000.tar"),
            ]
        )
    )
    content = (out / layout / name).read_bytes()
    with_file(out, layout, name, data.draw(damaged(content)), reader)
