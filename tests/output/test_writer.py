"""The content of a shard's files in all layouts, which depends only on input and settings."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.output import ModelLabel, ShardWriter, finished_shards
from sdbatch.prompts import Piece, check_table, list_inputs, parse, read_rows
from sdbatch.settings import LAYOUTS, RunSettings
from sdbatch.storage.store import Store
from tests.output.writing import noise, write_output
from tests.outputs import is_of_a_run
from tests.tables import write_table

MIXED = {
    "id": ["a", "b", "c", "d", "e", "f"],
    "prompt": ["a red circle", "", "ein Bär 🐻", None, "unlucky", "a\nb"],
    "steps": pa.array([1, 2, None, 4, 5, 0], pa.uint16()),
    "height": [None, None, 64.0, 64.5, None, None],
    "sampler": ["ddim", "ddim", None, "ddim", "no such sampler", None],
}


def contents(out: Path) -> dict[str, bytes]:
    """Every file of the dataset, without the manifest and the markers, which hold a run's identity and timings."""
    names = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    return {name: (out / name).read_bytes() for name in names if not is_of_a_run(name)}


def test_files_layout_on_disk(tmp_path: Path) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b", "c"]})
    write_output(str(tmp_path / "out"), prompts, shard_rows=2, images_per_prompt=2)
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "00000.parquet",
        "00000/000000000.png",
        "00000/000000001.png",
        "00000/000000002.png",
        "00000/000000003.png",
        "00000/metadata.parquet",
        "00000_stats.json",
        "00001.parquet",
        "00001/000010000.png",
        "00001/000010001.png",
        "00001/metadata.parquet",
        "00001_stats.json",
        "run.json",
    ]


def test_metadata_as_pandas_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_output(str(out), write_table(tmp_path / "p.parquet", MIXED), shard_rows=10)
    rows = pd.read_parquet(out / "00000.parquet")
    assert list(rows.columns) == [
        "id", "key", "file_name", "prompt", "negative_prompt", "seed", "sampler", "steps", "guidance_scale",
        "height", "width", "guidance_rescale", "guidance_start", "guidance_stop",
        "model", "status", "error", "sha256", "prompt_tokens", "prompt_truncated",
    ]  # fmt: skip
    assert list(rows["id"]) == MIXED["id"]
    assert list(rows["status"]) == ["ok", "failed", "ok", "failed", "failed", "failed"]
    assert list(rows["error"][rows.status == "failed"]) == [
        "prompt is empty",
        "prompt is empty",
        "sampler 'no such sampler' is unknown",
        "steps is 0; must be at least 1",
    ]
    assert list(rows["steps"]) == [1, 2, 50, 4, 5, 0]
    assert list(rows["height"].fillna(-1)) == [32, 32, 64, -1, 32, 32]
    assert list(rows["sampler"]) == ["ddim", "ddim", "ddpm", "ddim", "no such sampler", "ddpm"]
    for row in rows[rows.status == "ok"].itertuples():
        data = (out / row.file_name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
        with Image.open(out / row.file_name) as image:
            assert image.size == (row.width, row.height)
            expected = noise(Request(row.prompt, seed=row.seed, height=int(row.height), width=row.width))
            assert np.array_equal(np.asarray(image), expected)
    assert rows["file_name"][rows.status == "failed"].isna().all()


def test_marker_counts_rows_and_reasons(tmp_path: Path) -> None:
    prompts = write_table(tmp_path / "p.parquet", MIXED)
    (stats,) = write_output(str(tmp_path / "out"), prompts, shard_rows=10, images_per_prompt=2)
    marker = json.loads((tmp_path / "out" / "00000_stats.json").read_text())
    assert (marker["rows"], marker["images"], marker["ok"], marker["failed"]) == (6, 12, 4, 8)
    assert marker["reasons"] == {
        "prompt is empty": 4,
        "sampler 'no such sampler' is unknown": 2,
        "steps is 0; must be at least 1": 2,
    }
    assert marker["seconds"] == 1.5
    assert marker["notes"] == {"attempt": 1}
    assert stats.reasons == marker["reasons"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_order_of_completion_changes_no_byte(tmp_path: Path, layout: str, image_format: str) -> None:
    prompts = write_table(tmp_path / "p.parquet", MIXED)
    options = {"layout": layout, "image_format": image_format, "images_per_prompt": 3}
    write_output(str(tmp_path / "one"), prompts, **options)
    write_output(str(tmp_path / "two"), prompts, order=random.Random(1), **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_every_arrow_type_is_carried_through(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "decimal": pa.array([1, None], pa.decimal128(12, 2)),
            "binary": pa.array([b"\xff\0", None], pa.binary()),
            "large": pa.array(["x", None], pa.large_string()),
            "time": pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
            "duration": pa.array([1, None], pa.duration("us")),
            "list": pa.array([[1, None], None], pa.list_(pa.int8())),
            "fixed": pa.array([[1, 2], None], pa.list_(pa.float32(), 2)),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "deep": pa.array([{"a": [{"b": {"c": [1.5]}}]}, None]),
            "words": pa.array(["u", "u"]).dictionary_encode(),
            "half": pa.array(np.array([1.5, 2.5], np.float16)),
            "nothing": pa.nulls(2),
        }
    )
    prompts = write_table(tmp_path / "p.parquet", table)
    for layout in LAYOUTS:
        out = tmp_path / layout
        write_output(str(out), prompts, shard_rows=1, images_per_prompt=2, layout=layout)
        first, second = pq.read_table(out / "00000.parquet"), pq.read_table(out / "00001.parquet")
        assert first.schema == second.schema
        carried = pa.concat_tables([first, second]).select([n for n in table.column_names if n != "prompt"])
        wanted = pq.read_table(prompts).drop_columns(["prompt"]).take([0, 0, 1, 1])
        assert carried.equals(wanted)


def test_an_image_of_an_earlier_attempt_is_removed_when_its_row_fails(tmp_path: Path) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"]})
    write_output(str(tmp_path / "out"), prompts)
    (tmp_path / "out" / "00000_stats.json").unlink()
    write_output(
        str(tmp_path / "out"),
        write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"]}),
        sampler="no such sampler",
    )
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == []


def test_a_shard_with_images_missing_gets_no_marker(tmp_path: Path) -> None:
    (file,) = list_inputs(write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"]}))
    settings, store = RunSettings(), Store(str(tmp_path / "out"))
    columns = check_table([file], settings)
    (table,) = read_rows(file, columns, [(0, 2)])
    rows = parse(table, columns, settings, [Piece(0, 0, table.num_rows)])
    writer = ShardWriter(store, 0, table, rows, columns, settings, ModelLabel("tiny", "x", 8, 8))
    image = GeneratedImage(rows[0].requests[0], 0, np.zeros((8, 8, 3), np.uint8))
    writer.add(0, image)
    with pytest.raises(ValueError, match="lacks 1"):
        writer.finish(0.0)
    with pytest.raises(ValueError, match="already"):
        writer.add(0, image)
    assert finished_shards(store.entries()) == set()


def test_markers_among_other_entries() -> None:
    entries = {
        "00000_stats.json": 100,
        "00001_stats.json": 0,
        "123456_stats.json": 5,
        "000002_stats.json": 5,
        "2_stats.json": 5,
        "00003_stats.json.tmp": 5,
        "00004/": 0,
        "00004.parquet": 9,
        "run.json": 5,
    }
    assert finished_shards(entries) == {0, 123456}


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    (file,) = list_inputs(
        write_table(tmp_path / "p.parquet", {"prompt": pa.array([], pa.string()), "id": pa.array([], pa.int8())})
    )
    columns = check_table([file], RunSettings())
    (table,) = read_rows(file, columns, [(0, 0)])
    writer = ShardWriter(
        Store(str(tmp_path / "out")), 0, table, [], columns, RunSettings(), ModelLabel("t", None, 8, 8)
    )
    assert writer.finish(0.0).images == 0
    assert pq.read_table(tmp_path / "out" / "00000.parquet").num_rows == 0
