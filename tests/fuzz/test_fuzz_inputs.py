"""For any content of a table, a model's configuration, an option or a config file: an exit status and one line."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.diffusion.models.inspection import TINY
from sdbatch.settings import all_fields
from tests.fuzz.hostile import NUMBERS, TEXTS, VALUES, assert_told, changed, damaged, encoded, fuzzed
from tests.fuzz.test_fuzz_outputs import is_utf8
from tests.tables import write_table

ROWS = [
    {"prompt": "a red circle", "seed": 5, "steps": 3, "id": "x"},
    {"prompt": 'quoted "so", ein Bär', "seed": 6, "steps": 4, "id": None},
]
TABLES = {
    "csv": 'prompt,seed,steps\n"a red circle",5,3\n"a ""quoted"" one, ein Bär",6,4\n'.encode(),
    "tsv": "prompt\tseed\tsteps\na red circle\t5\t3\n".encode("utf-16"),
    "jsonl": b"\n".join(encoded(row) for row in ROWS),
    "txt": "a red circle\nein Bär\n".encode(),
}


def _arrow() -> bytes:
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, (table := pa.Table.from_pylist(ROWS)).schema) as writer:
        writer.write_table(table)
    return content.getvalue().to_pybytes()


def _workbook() -> bytes:
    content = io.BytesIO()
    pd.DataFrame(ROWS).to_excel(content, index=False)
    return content.getvalue()


PACKED = {"arrow": _arrow(), "xlsx": _workbook()}


@pytest.fixture
def here(tmp_path) -> Path:
    write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    for name in ("run.yaml", *(f"fuzz.{kind}" for kind in (*TABLES, *PACKED, "parquet"))):
        (tmp_path / name).touch()
    return tmp_path


def plan(folder: Path, prompts: str = "p.parquet", *options: str) -> tuple[int, str]:
    return assert_told(folder, "plan", str(folder / prompts), str(folder / "out"), *options)


@fuzzed
@given(data=st.data(), kind=st.sampled_from(sorted(TABLES)))
def test_text_tables(here, data, kind):
    (here / f"fuzz.{kind}").write_bytes(data.draw(damaged(TABLES[kind]) | st.binary(max_size=200)))
    plan(here, f"fuzz.{kind}")


@fuzzed
@given(rows=st.lists(changed(ROWS[0]) | VALUES, max_size=4))
def test_json_lines(here, rows):
    (here / "fuzz.jsonl").write_bytes(b"\n".join(map(encoded, rows)))
    plan(here, "fuzz.jsonl")


@fuzzed
@given(data=st.data())
def test_parquet(here, data):
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), content)
    (here / "fuzz.parquet").write_bytes(data.draw(damaged(content.getvalue().to_pybytes())))
    plan(here, "fuzz.parquet")


@fuzzed
@given(data=st.data(), kind=st.sampled_from(["arrow", "xlsx"]))
def test_arrow_and_workbooks(here, data, kind):
    (here / f"fuzz.{kind}").write_bytes(data.draw(damaged(PACKED[kind])))
    plan(here, f"fuzz.{kind}")


@fuzzed
@given(data=st.data(), names=st.lists(st.sampled_from([field.name for field in all_fields()]) | TEXTS, max_size=4))
def test_columns(here, data, names):
    kinds = (TEXTS.filter(is_utf8), st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.binary(max_size=4))
    columns = {
        name: data.draw(st.sampled_from(kinds).flatmap(lambda kind: st.lists(st.none() | kind, min_size=2, max_size=2)))
        for name in filter(is_utf8, ["prompt", *names])
    }
    pq.write_table(pa.table(columns), here / "fuzz.parquet")
    plan(here, "fuzz.parquet")


@pytest.fixture
def model(here) -> Path:
    """The embedded model, its weights by links."""
    return shutil.copytree(TINY, here / "model", copy_function=os.symlink)


@fuzzed
@given(data=st.data())
def test_model_configurations(here, model, data):
    path = model / data.draw(st.sampled_from(sorted(str(p.relative_to(model)) for p in model.rglob("*.json"))))
    original = path.read_bytes()
    content = data.draw(changed(json.loads(original)).map(encoded) | damaged(original))
    path.unlink()
    path.write_bytes(content)
    try:
        plan(here, "p.parquet", "--model", str(model))
    finally:
        path.write_bytes(original)


ARGUMENTS = TEXTS.filter(lambda text: is_utf8(text) and not text.startswith("-")) | NUMBERS.map(str)


@fuzzed
@given(field=st.sampled_from([f for f in all_fields() if f.name not in ("model", "address")]), text=ARGUMENTS)
def test_options(here, field, text):
    plan(here, "p.parquet", f"{field.option}={text}")


@fuzzed
@given(
    options=st.dictionaries(st.sampled_from([f.name for f in all_fields() if f.name != "model"]) | TEXTS, VALUES),
    data=st.data(),
)
def test_files_of_options(here, options, data):
    content = encoded(options)  # JSON is YAML
    (here / "run.yaml").write_bytes(data.draw(st.just(content) | damaged(content)))
    plan(here, "p.parquet", "--config", str(here / "run.yaml"))
