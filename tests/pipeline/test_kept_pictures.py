"""Outputs that keep their input pictures, through the real command."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sdbatch
from sdbatch.storage.parquet import parquet_bytes
from tests.conftest import connect
from tests.outputs import content, metadata, write_table

FEW = ("--sampler", "ddim", "--steps", 2, "--actors", 1, "--shard-size", 4, "--keep-input-images")
MASKED = ("--task", "inpainting", *FEW)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def prompts(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "red.png").write_bytes(picture("red"))
    cells = [
        {"bytes": None, "path": "red.png"},
        {"bytes": picture("blue"), "path": None},
        None,
        {"bytes": None, "path": "none.png"},
    ]
    columns = {
        "prompt": ["a", "b", "c", "d"],
        "steps": [None, None, None, 0],
        "image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "mask": pa.array([picture("white"), picture("white"), None, None], pa.binary()),
    }
    return write_table(tmp_path / "in" / "p.parquet", columns)


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_an_output_is_whole_in_itself(layout, prompts, tmp_path, stand_in_command):
    out = tmp_path / "out"
    stand_in_command("generate", prompts, out, *MASKED, "--layout", layout, status=1)
    shutil.rmtree(prompts.parent)

    kept = pq.read_table(out / "00000.parquet").to_pylist()
    assert [row["input_image"] for row in kept] == [
        {"bytes": picture("red"), "path": "red.png"},
        {"bytes": picture("blue"), "path": None},
        None,
        {"bytes": None, "path": "none.png"},
    ]
    assert kept[0]["input_mask_image"] == {"bytes": picture("white"), "path": None}
    loaded = datasets.load_dataset("parquet", data_files=str(out / "*.parquet"), split="train")
    assert loaded[1]["input_image"].getpixel((0, 0)) == (0, 0, 255)

    opened = sdbatch.open(str(out))
    assert [row["input_image"] for row in opened] == [row["input_image"] for row in kept]
    assert opened.to_pandas()["input_image"].fillna("").tolist() == ["red.png", "", "", "none.png"]

    assert "0 bad" in stand_in_command("verify", out).stdout
    stand_in_command("sheet", out, tmp_path / "sheet.png")
    stand_in_command("gallery", out)
    inputs = list((out / "gallery" / "__images" / "inputs").iterdir())
    assert sorted(Image.open(path).getpixel((0, 0)) for path in inputs) == [(0, 0, 254), (254, 0, 0)]
    stand_in_command("export", out, tmp_path / "exported", "--for", "imagefolder")
    assert [row["input_image"] for row in metadata(tmp_path / "exported" / "00000")] == ["red.png", None, None]


def test_the_next_run_starts_from_the_picture_that_an_output_keeps(prompts, tmp_path, stand_in_command):
    out, bold, further = tmp_path / "out", tmp_path / "bold", tmp_path / "further"
    stand_in_command("generate", prompts, out, *MASKED, status=1)
    shutil.rmtree(prompts.parent)
    few = ("--task", "image-to-image", *FEW[:-1])
    stand_in_command("generate", out, bold, *few, "--column", "image=input_input_image")
    assert [row["input_image_sha256"] for row in metadata(bold)] == [
        row["input_image_sha256"] for row in metadata(out)[:3]
    ]
    # Otherwise its path is carried, without the bytes.
    stand_in_command("generate", out, further, *few)
    assert [row["input_input_image"] for row in metadata(further)] == ["red.png", None, None]
    assert metadata(further)[0]["input_image"] == "00000/000000000.png"


def test_a_resume_keeps_them_too_ray_reads_them_and_a_damaged_one_is_found(
    prompts, tmp_path, stand_in_command, ray_session
):
    out = tmp_path / "out"
    stand_in_command("generate", prompts, out, *MASKED, status=1)
    assert json.loads((out / "run.json").read_text())["settings"]["keep_input_images"] is True
    before = content(out)
    refused = stand_in_command("generate", prompts, out, *MASKED[:-1], status=2)
    assert "--keep-input-images True, this run has False" in refused.stderr and content(out) == before

    connect(ray_session)
    read = sdbatch.open(str(out)).to_ray().take_all()
    assert [row["input_image"] for row in read] == [row["input_image"] for row in metadata(out)]

    table = pq.read_table(out / "00000.parquet")
    cells = table.column("input_image").to_pylist()
    cells[0]["bytes"] = picture("green")
    place = table.schema.get_field_index("input_image")
    changed = table.set_column(place, table.schema.field(place), pa.array(cells, table.schema.field(place).type))
    (out / "00000.parquet").write_bytes(parquet_bytes(changed))
    said = stand_in_command("verify", out, status=1).stdout
    assert "000000000: the picture in input_image differs from input_image_sha256" in said


def test_a_run_without_pictures_is_refused(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a"]})
    refused = stand_in_command("generate", prompts, tmp_path / "out", *FEW, status=2)
    assert "--keep-input-images" in refused.stderr
