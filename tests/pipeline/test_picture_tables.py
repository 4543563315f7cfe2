"""Tables whose rows start from pictures, through the real command."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

import sdbatch.tiny
from sdbatch.cli import main
from sdbatch.diffusion import Engine
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.fields import FrozenMapping
from sdbatch.prompts.picture_cells import PictureReader, PicturesAhead
from sdbatch.tiny.reader import read
from tests.conftest import threads_kept
from tests.outputs import content, metadata, write_table

TINY = Path(sdbatch.tiny.__file__).parent / "model"
FEW = ("--sampler", "ddim", "--steps", 20, "--actors", 1, "--shard-size", 9)
DATASET_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def square() -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    image.paste((230, 20, 30), (16, 16, 48, 48))
    return image


def right_half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    return mask


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def with_pictures(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    square().save(folder / "pictures" / "square.png")
    right_half().save(folder / "pictures" / "half.png")
    square().resize((100, 75)).save(folder / "pictures" / "wide.png")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return with_pictures(tmp_path / "in")


@pytest.fixture(scope="module")
def made(tmp_path_factory, sdbatch_command) -> tuple[Path, str]:
    """A folder of a table and its output `out`, and what the command said."""
    folder = with_pictures(tmp_path_factory.mktemp("made") / "in")
    table = "prompt,init_image,denoising strength,seed,resize,tag\n"
    table += "a blue circle on white,pictures/square.png,0.6,1,,x\n"
    table += "a yellow cross on black,,,2,,x\n"
    table += "a green triangle on white,pictures/square.png,,3,,x\n"
    table += "a red square,pictures/nowhere.png,,4,,x\n"
    table += "a red square,/etc/hostname,,5,,x\n"
    table += "a red square,http://127.0.0.1:9/x.png,,6,,x\n"
    table += "a red square,pictures/wide.png,,7,96x64,y\n"
    table += "a green cross,pictures/wide.png,,8,,x\n"
    table += "a red cross,pictures/wide.png,,9,model,x\n"
    (folder / "p.csv").write_text(table)
    options = (*FEW, "--task", "image-to-image")
    run = sdbatch_command("generate", folder / "p.csv", folder / "out", *options, status=1)
    return folder, run.stderr


def pictures(out: Path) -> list[np.ndarray | None]:
    names = [row["file_name"] for row in metadata(out)]
    return [None if name is None else np.asarray(Image.open(out / name)) for name in names]


def test_image_to_image_from_paths_is_diffusers_picture(made):
    folder, said = made
    out = folder / "out"
    assert "image (column 'init_image')" in said and "strength (column 'denoising strength')" in said
    rows, images = metadata(out), pictures(out)
    assert [row["strength"] for row in rows] == [0.6, *[0.8] * 8]
    assert [row["input_image"] for row in rows][:3] == ["pictures/square.png", None, "pictures/square.png"]
    assert rows[0]["input_image_sha256"] == rows[2]["input_image_sha256"] and rows[3]["input_image_sha256"] is None
    assert "nowhere.png: there is no such file" in rows[3]["error"]
    assert all("--allow-image-urls" in row["error"] for row in rows[4:6])
    sizes = [(row["width"], row["height"], row["resize"]) for row in rows]
    assert sizes[:3] == [(64, 64, None)] * 3 and sizes[6:] == [(96, 64, "96x64"), (96, 72, None), (64, 64, "model")]

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(TINY, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    for number in (0, 2):
        expected = pipeline(
            rows[number]["prompt"],
            image=square(),
            strength=rows[number]["strength"],
            num_inference_steps=20,
            generator=torch.Generator().manual_seed(number + 1),
            output_type="np",
        ).images[0]
        assert np.abs(images[number] - (expected * 255).round()).max() <= 2


def test_they_are_made_again_from_the_same_pictures_alone(made, sdbatch_command):
    folder, _ = made
    # A size that came of a picture is none that was given: made again, it is stretched, and not cut.
    remade = sdbatch_command("verify", folder / "out", "--remake", 9).stdout
    assert "6 images made again from their metadata, 0 of them different" in remade
    # Another picture under the name is noticed: it makes another image.
    right_half().save(folder / "pictures" / "square.png")
    changed = sdbatch_command("verify", folder / "out", "--remake", 9, status=1).stdout
    square().save(folder / "pictures" / "square.png")
    assert "2 of them different" in changed


def test_a_row_of_text_is_the_one_of_a_run_of_text(made):
    out = made[0] / "out"
    recorded = json.loads((out / "run.json").read_text())["engine"]
    with threads_kept():
        engine = Engine("tiny", lanes=recorded["lanes"], threads=recorded["threads"], compile="off")
        (alone,) = engine.generate([Request("a yellow cross on black", seed=2, steps=20, sampler="ddim")])
    assert np.array_equal(pictures(out)[1], alone.pixels)


def test_an_option_names_a_picture_for_all_rows_that_name_none(folder, tmp_path, stand_in_command):
    table = {"prompt": ["a", "b"], "image": ["pictures/wide.png", None]}
    prompts, option = write_table(folder / "p.parquet", table), folder / "pictures" / "square.png"
    stand_in_command("generate", prompts, tmp_path / "out", *FEW, "--task", "image-to-image", "--image", option)
    rows = metadata(tmp_path / "out")
    assert [row["input_image"] for row in rows] == ["pictures/wide.png", str(option)]
    digests = [
        hashlib.sha256((folder / "pictures" / name).read_bytes()).hexdigest() for name in ("wide.png", "square.png")
    ]
    assert [row["input_image_sha256"] for row in rows] == digests


def test_another_strength_or_task_is_refused(made, sdbatch_command):
    folder, _ = made
    before = content(folder / "out")
    command = ("generate", folder / "p.csv", folder / "out", *FEW)
    refused = sdbatch_command(*command, "--task", "image-to-image", "--strength", 0.5, status=2)
    assert "--strength 0.8" in refused.stderr
    refused = sdbatch_command(*command, status=2)
    assert "--task" in refused.stderr and content(folder / "out") == before


def test_an_output_is_used_as_a_table_of_pictures(made, tmp_path, stand_in_command):
    second = tmp_path / "second"
    judged = ("--scorer", "entropy", "--keep", "entropy > 0 and input_tag == 'x'", "--layout", "parquet")
    options = (*FEW, "--task", "image-to-image", "--resize", "model", "--images-per-prompt", 2)
    stand_in_command("generate", made[0] / "out", second, *options, *judged)
    rows = metadata(second)
    assert [(row["width"], row["height"], row["resize"]) for row in rows] == [(64, 64, "model")] * 12
    assert [row["accepted"] for row in rows[::2]] == [True, True, True, False, True, True]
    assert [row["input_image"] for row in rows[::2]] == [f"00000/00000000{i}.png" for i in (0, 1, 2, 6, 7, 8)]
    assert [row["input_image_sha256"] for row in rows[::2]] == [row["input_sha256"] for row in rows[::2]]


def test_inpainting_from_bytes_and_from_what_hugging_face_writes(folder, tmp_path, sdbatch_command):
    image, mask = encoded(square()), encoded(right_half())
    columns = {
        "prompt": ["a green cross on white"] * 3,
        "seed": [3] * 3,
        "image": pa.array([{"bytes": image, "path": "mine.png"}, {"bytes": image, "path": None}, None], DATASET_IMAGE),
        "mask": pa.array([mask, mask, None], pa.binary()),
    }
    prompts, out = write_table(folder / "p.parquet", columns), tmp_path / "out"
    sdbatch_command("generate", prompts, out, *FEW, "--task", "inpainting", "--layout", "parquet")
    rows = metadata(out)
    assert [row["input_image"] for row in rows] == ["mine.png", None, None]
    assert rows[0]["sha256"] == rows[1]["sha256"] != rows[2]["sha256"]
    made = np.asarray(Image.open(io.BytesIO(rows[0]["image"]["bytes"])))
    kept = np.abs(made[:, :24].astype(int) - np.asarray(square())[:, :24]).mean()
    assert kept < 12 < np.abs(made[:, 40:].astype(int) - np.asarray(square())[:, 40:]).mean()


def test_image_to_image_obeys():
    engine, extra = Engine("tiny"), {"image": Picture(square()), "strength": 0.8}
    requests = [
        Request("a blue square on white", seed=seed, steps=20, sampler="ddim", task="image-to-image", extra=extra)
        for seed in range(8)
    ]
    readings = [read(image.pixels) for image in engine.generate(requests)]
    assert sum(reading.kinds == (("square", "blue"),) and reading.background == "white" for reading in readings) >= 6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--strength", 0.5), "--strength: text-to-image does not use it"),
        (("--task", "image-to-imag"), "did you mean 'image-to-image'"),
        (("--task", "image-to-image", "--strength", 2), "a number from 0 to 1"),
        (("--task", "upscaling"), "upscaling"),
    ],
)
def test_what_cannot_be_is_refused_by_the_plan(folder, tmp_path, sdbatch_command, options, word):
    prompts = write_table(folder / "p.parquet", {"prompt": ["a"]})
    said = sdbatch_command("plan", prompts, tmp_path / "out", *options, status=2).stderr
    assert word in said and len(said.splitlines()) == 1


def test_a_run_of_text_carries_pictures_and_says_so(folder, tmp_path, sdbatch_command):
    prompts = write_table(folder / "p.parquet", {"prompt": ["a"], "image": ["pictures/square.png"], "mask": ["x"]})
    said = sdbatch_command("plan", prompts, tmp_path / "out", "--layout", "parquet").stdout
    assert "column 'image' is carried" in said and "text-to-image does not use it" in said


def test_the_plan_counts_the_calls_of_what_strength_leaves(folder, tmp_path, sdbatch_command):
    columns = {"prompt": ["a"] * 2, "image": ["pictures/square.png", None], "strength": [0.5, None]}
    prompts = write_table(folder / "p.parquet", columns)
    said = sdbatch_command("plan", prompts, tmp_path / "out", *FEW[:4], "--task", "image-to-image").stdout
    assert "60 calls of the model" in said  # (10 + 20) * 2


def test_a_rows_pictures_are_read_once_for_all_its_images(folder):
    class Counting(PictureReader):
        def picture(self, cell, place):
            read.append(cell)
            return super().picture(cell, place)

    read: list[str] = []
    extras = [FrozenMapping({"image": f"pictures/{name}.png"}) for name in ("square", "half")]
    requests = [(Request("a", seed=seed, extra=extra), str(folder)) for extra in extras for seed in range(3)]
    found = list(PicturesAhead(requests, [Counting(("image",))]))
    assert sorted(read) == ["pictures/half.png", "pictures/square.png"]
    assert [request.seed for request in found] == [0, 1, 2] * 2
    assert [request.extra["image"].path for request in found[::3]] == ["pictures/square.png", "pictures/half.png"]


def test_the_plan_looks_at_sizes_and_warns_of_empty_lanes(folder, capsys, tmp_path):
    for i in range(12):
        Image.new("RGB", (64 + 8 * i, 120 - 8 * (i % 3))).save(folder / f"{i}.png")
    images = [*(f"{i}.png" for i in range(12)), "nowhere.png"]
    prompts = write_table(folder / "p.parquet", {"prompt": ["a"] * 13, "image": images})

    def said(*options) -> str:
        assert main(["plan", str(prompts), str(tmp_path / "out"), "--task", "image-to-image", *options]) == 0
        return capsys.readouterr().out

    alone = said()
    assert "64x120: 1" in alone and "6 others" in alone and "1 of 13 pictures can't be used" in alone
    # One row of each size takes two of the few lanes that its size has.
    fill = int(re.search(r"expected to be (\d+)% full", alone)[1])
    assert 25 <= fill < 50 and "--resize buckets" in alone
    few = said("--resize", "buckets")
    assert "64x64: 4   56x80: 2" in few
    one = said("--resize", "128x64")
    assert "size      128x64: 13" in one and "share no pass" not in one
    assert main(["plan", str(prompts), str(tmp_path / "out"), "--task", "image-to-image", "--resize", "100x64"]) == 1
    assert "13  resize 100x64: both sides must be multiples of 8" in capsys.readouterr().out
