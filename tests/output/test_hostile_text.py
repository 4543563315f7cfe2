"""Prompts and columns are data: any content comes back unchanged, and never names a file."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdbatch.output.dataset import open_dataset
from sdbatch.output.encoding import encode, read_parameters
from sdbatch.output.parameters import fitted
from sdbatch.output.status import status
from sdbatch.output.verify import verify
from sdbatch.settings import LAYOUTS
from tests.output.writing import write_output
from tests.tables import write_table

HOSTILE = [
    "two\nlines\r\nand three",
    "a nul \0 inside",
    "x" * 1_000_000,
    "🐻" * 100_000,
    "</script><script>alert(1)</script>",
    "\x1b]0;owned\x07\x1b[2J red",
    "../../etc/passwd",
    "Negative prompt: none\nSteps: 1, Sampler: x, CFG scale: 1, Seed: 1, Size: 1x1, Model: evil",
    '"quoted", {json: [1]} \\ back\\slash',
    "\u202eright to left, and a \ufeff mark",
    "%s %d {0} $HOME `id` ; rm -rf /",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_hostile_prompts_and_ids_cost_nothing(tmp_path: Path, layout: str, image_format: str) -> None:
    table = {"prompt": HOSTILE, "negative_prompt": HOSTILE[::-1], "id": HOSTILE, "../up": HOSTILE, "a,b\n": HOSTILE}
    out = tmp_path / "deep" / "out"
    prompts = write_table(tmp_path / "p.parquet", table)
    write_output(str(out), prompts, layout=layout, image_format=image_format, shard_rows=6)
    assert verify(str(out)).ok
    rows = list(open_dataset(str(out)))
    for name, values in table.items():
        assert [row[name] for row in rows] == values
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert all(name == "p.parquet" or name.startswith("deep/out/") for name in names)
    assert all(name.isascii() and name.isprintable() for name in names)


def test_hostile_prompts_in_a_tar(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_output(str(out), write_table(tmp_path / "p.parquet", {"prompt": HOSTILE}), 100, layout="webdataset")
    with tarfile.open(out / "00000.tar") as tar:
        assert {Path(member.name).suffix for member in tar} == {".png", ".txt", ".json"}
    (url,) = map(str, out.glob("*.tar"))
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [sample["txt"] for sample in samples] == HOSTILE
    assert [sample["json"]["prompt"] for sample in samples] == HOSTILE


def test_a_reason_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt,steps,"se\x1bed"\na,\x1b[2Jmany,1\n')
    write_output(str(tmp_path / "out"), str(tmp_path / "p.csv"), column={"seed": "se\x1bed"})
    (reason,) = status(str(tmp_path / "out")).reasons
    assert reason.isprintable() and "\\x1b[2Jmany" in reason


def test_carried_text_that_is_not_utf8_can_be_read(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"fine"]).buffers())
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"], "note": bad, "negative_prompt": bad})
    for layout in LAYOUTS:
        out = tmp_path / layout
        write_output(str(out), prompts, layout=layout)
        assert verify(str(out)).ok
        note = pq.read_table(out / "00000.parquet").column("note")
        status = pq.read_table(out / "00000.parquet").column("status")
        assert status.to_pylist() == ["failed", "ok"]  # by its negative prompt
        assert note.to_pylist() == ["\ufffd\ufffd", "fine"]  # as bytes, no reader could open the file
    with tarfile.open(tmp_path / "webdataset" / "00000.tar") as tar:
        row = json.load(tar.extractfile("000000001.json"))
    assert row["note"] == "fine"


def test_values_that_json_or_python_cannot_hold(tmp_path: Path) -> None:
    table = {
        "prompt": ["a"],
        "never": pa.array([float("nan")]),
        "late": pa.array([10**17], pa.timestamp("ms")),
        "fine": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
        "bytes": pa.array([b"\xff"]),
        "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "cents": pa.array([12345], pa.decimal128(9, 0)),
    }
    write_output(str(tmp_path / "out"), write_table(tmp_path / "p.parquet", table), layout="webdataset")
    assert verify(str(tmp_path / "out")).ok
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        row = json.load(tar.extractfile("000000000.json"))
    assert (row["never"], row["late"], row["bytes"], row["cents"]) == (None, None, "/w==", "12345")
    assert row["fine"] == "2023-11-14T22:13:20.000000001"
    assert row["pairs"] == [{"key": "k", "value": 1}]


ROW = {
    "steps": 20,
    "sampler": "euler_a",
    "guidance_scale": 7.0,
    "seed": 1,
    "height": 8,
    "width": 8,
    "model": "a, b: c",
    "model_hash": "0123",
}


@settings(max_examples=150, deadline=None)
@given(
    prompt=st.text(st.characters(codec="utf-8")),
    negative=st.text(st.characters(codec="utf-8")),
    image_format=st.sampled_from(["png", "jpeg", "webp"]),
)
def test_any_text_comes_back_out_of_an_image(prompt: str, negative: str, image_format: str) -> None:
    row = ROW | {"prompt": prompt, "negative_prompt": negative}
    data = encode(np.zeros((8, 8, 3), np.uint8), image_format, None, "fast", row)
    text = read_parameters(Image.open(io.BytesIO(data)))
    assert text.startswith(prompt)
    assert text.splitlines()[-1] == (
        'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8, Model hash: 0123, Model: "a, b: c"'
    )


@given(prompt=st.text(max_size=300), negative=st.text(max_size=300), units=st.integers(120, 400))
def test_what_must_fit_is_cut_from_the_prompts_not_the_settings(prompt: str, negative: str, units: int) -> None:
    whole = fitted(ROW | {"prompt": prompt, "negative_prompt": negative}, 10_000)
    text = fitted(ROW | {"prompt": prompt, "negative_prompt": negative}, units)
    assert len(text.encode("utf-16-be", "surrogatepass")) // 2 <= units
    assert text.rpartition("\n")[2] == whole.rpartition("\n")[2]
    assert prompt.startswith(text.partition("\n")[0][: len(prompt)]) or "\n" in prompt
