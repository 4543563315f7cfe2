"""For any content of an output, its readers end with an exit status and one line, and write nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.diffusion import GeneratedImage, Request, inspect_model, model_hash
from sdbatch.settings import LAYOUTS
from tests.fuzz.hostile import TEXTS, assert_told, changed, damaged, encoded, fuzzed
from tests.output.writing import write_output
from tests.tables import write_table

READERS = {
    "status": "status {out}",
    "verify": "verify {out}",
    "remake": "verify {out} --remake 2",
    "gallery": "gallery {out}",
    "sheet": "sheet {out} {folder}/sheet.png",
    "score": "score {out} --scorer phash --again",
    "export": "export {out} {folder}/exported --where seed>=0 --dedup sha256",
    "plan": "plan {folder}/p.parquet {out} --layout {layout}",
    "as input": "plan {out} {folder}/new",
}
NAMES = sorted(READERS)
ENGINE = {"device": "cpu", "dtype": "fp32", "lanes": 4, "threads": None, "compile": "off"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """Outputs of each layout, and their table."""
    folder = tmp_path_factory.mktemp("fuzz")
    prompts = write_table(folder / "p.parquet", {"prompt": ["a", "b", "", "d"], "id": [1, 2, 3, 4]})
    for layout in LAYOUTS:
        write_output(str(folder / layout), prompts, shard_rows=2, layout=layout)
        record = json.loads((folder / layout / "run.json").read_text())
        record["model"] |= {"source": "tiny", "family": "sd1", "hash": model_hash(inspect_model("tiny"))}
        record["engine"] = ENGINE
        (folder / layout / "run.json").write_text(json.dumps(record))
    return folder


class NoEngine:
    """In place of the engine: makes no picture."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def generate(self, requests: list[Request]) -> Iterator[GeneratedImage]:
        return (GeneratedImage(request, index, None, "not made") for index, request in enumerate(requests))


@pytest.fixture
def out(outputs, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("sdbatch.diffusion.Engine", NoEngine, raising=False)
    for path in outputs.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    (tmp_path / "sheet.png").touch()
    (tmp_path / "exported").mkdir()
    return tmp_path


def read(folder: Path, layout: str, reader: str) -> None:
    words = READERS[reader].split()
    assert_told(folder, *(word.format(out=folder / layout, folder=folder, layout=layout) for word in words))
    shutil.rmtree(folder / "exported")
    (folder / "exported").mkdir()


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
@given(data=st.data(), layout=st.sampled_from(LAYOUTS), reader=st.sampled_from(NAMES))
def test_manifests_and_markers(out, name, data, layout, reader):
    document = json.loads((out / layout / name).read_text())
    content = data.draw(changed(document).map(encoded) | damaged(encoded(document)))
    with_file(out, layout, name, content, reader)


@fuzzed
@given(data=st.data(), reader=st.sampled_from(NAMES), name=st.sampled_from(["engine", "inputs-0001", "replaced"]))
def test_files_that_extend_a_manifest(out, data, reader, name):
    record = json.loads((out / "files" / "run.json").read_text())
    more = {"run": record["id"], "inputs": record["inputs"], "starts": [1], "engine": ENGINE, "versions": {}}
    with_file(out, "files", f"{name}.json", encoded(data.draw(changed(more))), reader)


@fuzzed
@given(data=st.data(), layout=st.sampled_from(LAYOUTS), reader=st.sampled_from(NAMES))
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
@given(data=st.data(), reader=st.sampled_from(NAMES))
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
