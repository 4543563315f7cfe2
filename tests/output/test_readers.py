"""Each layout, opened with the usual tools for such datasets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sd_parsers
import webdataset
from PIL import Image

from sdbatch.diffusion.request import Request
from sdbatch.output.dataset import open_dataset
from sdbatch.output.verify import verify
from sdbatch.settings import LAYOUTS
from tests.output.writing import noise, write_output
from tests.tables import write_table

# The first shard has failed rows and a column that is all null there; the last shard has no picture at all.
PROMPTS = ["a red circle", "", "ein Bär 🐻", "a\nb", "c", "d", "", ""]
TABLE = {
    "prompt": PROMPTS,
    "id": list("abcdefgh"),
    "note": [None, None, None, "late", "later", None, None, None],
    "seed": [11, 12, 13, 14, 15, 16, 17, 18],
}
MADE = [prompt for prompt in PROMPTS if prompt]


@pytest.fixture(autouse=True)
def hugging_face_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., Path]:
    def make(**options: object) -> Path:
        prompts = write_table(tmp_path / "p.parquet", TABLE)
        write_output(str(tmp_path / "out"), prompts, shard_rows=3, **options)
        return tmp_path / "out"

    return make


def picture(prompt: str) -> np.ndarray:
    return noise(Request(prompt, seed=TABLE["seed"][PROMPTS.index(prompt)]))


def same(image: Image.Image, prompt: str) -> bool:
    return np.array_equal(np.asarray(image.convert("RGB")), picture(prompt))


def load(kind: str, **where: Any) -> datasets.Dataset:
    return datasets.load_dataset(kind, split="train", **where)


def test_hugging_face_imagefolder(output: Callable[..., Path]) -> None:
    # imagefolder keeps its metadata files in a set: the order of shards is not its to promise.
    rows = sorted(load("imagefolder", data_dir=str(output())), key=lambda row: row["key"])
    assert [row["text"] for row in rows] == MADE
    assert all(same(row["image"], row["text"]) for row in rows)
    assert [row["note"] for row in rows] == [None, None, "late", "later", None]


def test_hugging_face_imagefolder_with_columns_that_look_like_files(tmp_path: Path) -> None:
    table = {
        "prompt": ["a", "b"],
        "text": ["its own", "its own"],
        "mask_file_name": ["nowhere.png", "nowhere.png"],
        "deep": [{"file_name": "nowhere.png"}, None],
        "fine": [{"name": "x"}, None],
    }
    write_output(str(tmp_path / "out"), write_table(tmp_path / "p.parquet", table))
    rows = load("imagefolder", data_dir=str(tmp_path / "out"))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert [row["fine"] for row in rows] == [{"name": "x"}, None]
    assert pq.read_table(tmp_path / "out" / "00000.parquet").column("text").to_pylist() == ["its own"] * 2


def test_hugging_face_parquet(output: Callable[..., Path]) -> None:
    rows = load("parquet", data_files=str(output(layout="parquet") / "*.parquet"))
    assert rows.features["image"] == datasets.Image()
    assert [row["prompt"] for row in rows] == PROMPTS
    for row in rows:
        assert same(row["image"], row["prompt"]) if row["status"] == "ok" else row["image"] is None


def test_hugging_face_webdataset(tmp_path: Path) -> None:
    # It learns the types from the first five samples, and takes no text where these were all null.
    table = {name: values for name, values in TABLE.items() if name != "note"}
    prompts = write_table(tmp_path / "p.parquet", table)
    write_output(str(tmp_path / "out"), prompts, shard_rows=3, layout="webdataset")
    rows = load("webdataset", data_files=str(tmp_path / "out" / "*.tar"))
    assert [row["txt"] for row in rows] == MADE
    assert all(same(row["png"], row["txt"]) for row in rows)
    assert [row["json"]["seed"] for row in rows] == [11, 13, 14, 15, 16]


def test_webdataset(output: Callable[..., Path]) -> None:
    out = output(layout="webdataset")
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [
        "000000000", "000000002", "000010000", "000010001", "000010002",
    ]  # fmt: skip
    assert [sample["txt"] for sample in samples] == MADE
    assert all(np.array_equal(sample["png"], picture(sample["txt"])) for sample in samples)
    assert samples[2]["json"]["note"] == "late"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pandas_pyarrow_and_duckdb(output: Callable[..., Path], layout: str) -> None:
    out = output(layout=layout)
    frame = pd.concat([pd.read_parquet(path) for path in sorted(out.glob("*.parquet"))])
    assert list(frame["prompt"]) == PROMPTS
    assert list(frame["id"]) == TABLE["id"]
    table = ds.dataset(sorted(str(path) for path in out.glob("*.parquet"))).to_table()
    assert table.column("note").to_pylist() == TABLE["note"]
    query = f"SELECT status, error, count(*) FROM '{out}/*.parquet' GROUP BY ALL ORDER BY ALL"
    with duckdb.connect() as connection:  # of its own: another test's may be in use
        counts = connection.execute(query).fetchall()
    assert counts == [("failed", "prompt is empty", 3), ("ok", None, 5)]


def test_pandas_opens_the_pictures_in_parquet(output: Callable[..., Path]) -> None:
    frame = pd.read_parquet(output(layout="parquet") / "00000.parquet")
    image = Image.open(io.BytesIO(frame["image"][0]["bytes"]))
    assert same(image, frame["prompt"][0])


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_sd_parsers_reads_the_parameters(output: Callable[..., Path], image_format: str) -> None:
    settings = {"negative_prompt": "blurry, dark", "sampler": "euler_a", "steps": 20, "guidance_scale": 7}
    out = output(image_format=image_format, **settings)
    files = sorted(path for path in (out / "00000").iterdir() if path.suffix != ".parquet")
    # All open at once: it keeps what it read last by the image's id(), which a closed one leaves to the next.
    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(Image.open(path)) for path in files]
        found = [sd_parsers.ParserManager().parse(image) for image in images]
    assert [info.full_prompt for info in found] == ["a red circle", "ein Bär 🐻"]
    assert {info.full_negative_prompt for info in found} == {"blurry, dark"}
    (sampler,) = found[0].samplers
    assert sampler.name == "Euler a"
    assert sampler.parameters == {"steps": "20", "cfg_scale": "7", "seed": "11"}
    assert (sampler.model.name, sampler.model.hash) == ("tiny", "0123abcd")
    assert found[0].metadata["Size"] == "32x32"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ray_reads_the_metadata(output: Callable[..., Path], layout: str, ray_driver: None) -> None:
    import ray

    out = output(layout=layout)
    rows = ray.data.read_parquet([str(path) for path in sorted(out.glob("*.parquet"))]).take_all()
    assert sorted(row["prompt"] for row in rows) == sorted(PROMPTS)


def test_ray_reads_webdataset(output: Callable[..., Path], ray_driver: None) -> None:
    import ray

    out = output(layout="webdataset")
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    rows = ray.data.read_webdataset(urls).take_all()
    assert sorted(row["txt"] for row in rows) == sorted(MADE)
    assert all(np.array_equal(row["png"], picture(row["txt"])) for row in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_reader(output: Callable[..., Path], layout: str) -> None:
    rows = open_dataset(str(output(layout=layout)))
    assert len(rows) == 8
    listed = list(rows)
    assert [row["prompt"] for row in listed] == PROMPTS
    assert [row["id"] for row in listed] == TABLE["id"]
    for row in listed:
        assert same(row["image"], row["prompt"]) if row["status"] == "ok" else row["image"] is None
    frame = rows.to_pandas()
    assert list(frame["prompt"]) == PROMPTS
    assert "image" not in frame.columns


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_reader_in_ray(output: Callable[..., Path], layout: str, ray_driver: None) -> None:
    out = output(layout=layout)
    rows = sorted(open_dataset(str(out)).to_ray().take_all(), key=lambda row: row["key"])
    assert [row["prompt"] for row in rows] == PROMPTS
    for row in rows:
        assert (row["image"] is None) == (row["status"] == "failed")
        assert row["image"] is None or same(Image.open(io.BytesIO(row["image"])), row["prompt"])


def test_pictures_make_no_huge_pages_or_row_groups(tmp_path: Path) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a"] * 40})
    write_output(str(tmp_path / "out"), prompts, shard_rows=40, layout="parquet", height=768, width=768)
    parquet = pq.ParquetFile(tmp_path / "out" / "00000.parquet")
    assert parquet.metadata.num_row_groups == 3  # 1.8 MB of noise each, 32 MB a group
    for group in range(parquet.metadata.num_row_groups):
        for column in range(parquet.metadata.num_columns):
            chunk = parquet.metadata.row_group(group).column(column)
            if chunk.path_in_schema == "image.bytes":
                assert (chunk.compression, chunk.statistics) == ("UNCOMPRESSED", None)
                assert set(chunk.encodings) == {"PLAIN", "RLE"}
            else:
                assert chunk.compression == "ZSTD"


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_the_tables_own_image_and_file_name_stand_beside_the_pictures(tmp_path: Path, layout: str) -> None:
    table = {"prompt": ["a", "b"], "image": ["x.png", "y.png"]} | (
        {"file_name": ["1", "2"]} if layout != "files" else {}
    )
    write_output(str(tmp_path / "out"), write_table(tmp_path / "p.parquet", table), layout=layout)
    assert verify(str(tmp_path / "out")).ok
    rows = list(open_dataset(str(tmp_path / "out")))
    assert [row["input_image"] for row in rows] == ["x.png", "y.png"]
    assert all(row["image"].size == (32, 32) for row in rows)
