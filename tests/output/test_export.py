"""Exports of selected images, read with other tools."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdbatch.cli import main
from sdbatch.output.export import export
from sdbatch.prompts.columns import SOURCES
from tests.gallery.outputs import png
from tests.gallery.outputs import write_output as write_rows
from tests.output.writing import write_output

ROWS = [{"prompt": f"a picture {i}", "tag": "ab"[i % 2], "weight": float(i)} for i in range(7)]
ROWS[5]["error"] = "no such sampler"


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_condition_and_a_column_of_duplicates_choose(layout, tmp_path, capsys):
    out, dest = write_rows(tmp_path / "out", ROWS, layout=layout, shard_size=3), tmp_path / "dest"
    arguments = ["export", str(out), str(dest), "--where", "weight > 0 and prompt != 'a picture 3'"]
    assert main(arguments) == 0
    assert "4 of 6 images chosen" in capsys.readouterr().out
    keys = ["00000/000000001.png", "00000/000000002.png", "00001/000010001.png", "00002/000020000.png"]
    assert [name for name in names(dest) if name.endswith("png")] == keys
    assert [(dest / key).read_bytes() for key in keys] == [png(1), png(2), png(4), png(6)]
    table = pq.read_table(dest / "00000" / "metadata.parquet").to_pylist()
    assert [(row["file_name"], row["text"], row["tag"]) for row in table] == [
        ("000000001.png", "a picture 1", "b"),
        ("000000002.png", "a picture 2", "a"),
    ]
    is_link = (dest / keys[0]).stat().st_ino == (out / keys[0]).stat().st_ino if layout == "files" else False
    assert is_link == (layout == "files")
    # Interrupted, it resumes where it stopped.
    (dest / "00000" / "metadata.parquet").unlink()
    (dest / keys[0]).unlink()
    assert main(arguments) == 0 and "1 folder written" in capsys.readouterr().out
    assert (dest / keys[0]).read_bytes() == png(1)
    report = export(str(out), str(tmp_path / "few"), dedup="tag")
    assert (report.images, report.chosen, report.duplicates) == (6, 6, 4)


def test_webdataset_has_picture_text_and_row(tmp_path):
    out = write_rows(tmp_path / "out", ROWS, shard_size=4)
    export(str(out), str(tmp_path / "dest"), form="webdataset", where="weight >= 2")
    with tarfile.open(tmp_path / "dest" / "00000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(found) == [f"00000000{i}.{end}" for i in (2, 3) for end in ("png", "txt", "json")]
    assert found["000000002.png"] == png(2) and json.loads(found["000000003.json"])["weight"] == 3


def test_geneval_finds_its_metadata_and_samples(tmp_path):
    """As its evaluate_images.py reads them: numbered folders, `metadata.jsonl`, `samples/` of numbered PNGs."""
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
    ]
    (tmp_path / "evaluation_metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, dest = tmp_path / "out", tmp_path / "dest"
    write_output(str(out), str(tmp_path / "evaluation_metadata.jsonl"), images_per_prompt=4, image_format="webp")
    export(str(out), str(dest), form="geneval")
    folders = sorted(name for name in os.listdir(dest) if name.isdigit())
    assert [json.loads((dest / name / "metadata.jsonl").read_text()) for name in folders] == lines
    assert sorted(os.listdir(dest / "00001" / "samples")) == ["0000.png", "0001.png", "0002.png", "0003.png"]
    first = Image.open(dest / "00001" / "samples" / "0003.png")
    assert first.format == "PNG" and np.array_equal(
        np.asarray(first), np.asarray(Image.open(out / "00000/000000007.webp"))
    )


def test_dpg_bench_finds_four_pictures_in_a_grid(tmp_path, capsys):
    (tmp_path / "p.csv").write_text(
        "item_id,prompt,sampler\nCOCO_1,a cat,\npartiprompts2,a dog,\nx,y,no such sampler\n"
    )
    out, dest = tmp_path / "out", tmp_path / "dest"
    write_output(str(out), str(tmp_path / "p.csv"), images_per_prompt=4)
    assert main(["export", str(out), str(dest), "--for", "dpg-bench"]) == 0
    assert [name for name in names(dest) if not name.startswith(".")] == ["COCO_1.png", "partiprompts2.png"]
    grid = Image.open(dest / "partiprompts2.png")
    assert grid.size == (64, 64)
    for i, corner in enumerate([(0, 0), (32, 0), (0, 32), (32, 32)]):
        tile = np.asarray(grid.crop((*corner, corner[0] + 32, corner[1] + 32)))
        assert np.array_equal(tile, np.asarray(Image.open(out / f"00000/00000000{4 + i}.png")))
    # A row with three images left by the condition has no grid, and this is reported.
    assert (
        main(["export", str(out), str(tmp_path / "less"), "--for", "dpg-bench", "--where", "key != '000000004'"]) == 1
    )
    assert "1 items lack some of their 4 images" in capsys.readouterr().out


def hps_numbers(dest) -> dict[str, list[int]]:
    """As HPSv2's evaluate_benchmark reads it: each entry of the folder is a style, images are NNNNN.jpg."""
    return {
        style: [i for i in range(9) if (dest / style / f"{i:05d}.jpg").exists()] for style in sorted(os.listdir(dest))
    }


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_hpsv2_finds_numbered_pictures_of_each_style(layout, tmp_path, capsys):
    """From its published prompts, an array of texts for each style; and from one table with a column of styles."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for style, count in {"anime": 2, "concept-art": 3}.items():
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(count)]))
    out, dest = tmp_path / "out", tmp_path / "dest"
    write_output(str(out), str(folder), layout=layout, shard_rows=2, sources=SOURCES)
    export = ["export", str(out), str(dest), "--for", "hpsv2"]
    assert main(export) == 0 and "5 files written" in capsys.readouterr().out
    assert hps_numbers(dest) == {"anime": [0, 1], "concept-art": [0, 1, 2]}
    with Image.open(dest / "anime" / "00001.jpg") as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.asarray(picture, int) - picture_of(out, layout, 1)).mean() < 8
    (dest / "concept-art" / "00001.jpg").unlink()
    assert main(export) == 0 and "1 file written" in capsys.readouterr().out
    assert main([*export, "--where", "key != ''"]) == 2 and "with other options" in capsys.readouterr().err

    styles = ["photo", "anime", "photo", "photo", "anime"]
    prompts = ["a", "b", "", "d", "e"]  # a failed row counts
    table = tmp_path / "p.csv"
    table.write_text("prompt,style\n" + "".join(f"{p},{s}\n" for p, s in zip(prompts, styles, strict=True)))
    write_output(str(tmp_path / "one"), str(table), layout=layout, shard_rows=2, sources=SOURCES)
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "of-one"), "--for", "hpsv2"]) == 0
    assert hps_numbers(tmp_path / "of-one") == {"anime": [0, 1], "photo": [0, 2]}
    (tmp_path / "one" / "00001_stats.json").unlink()
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "less"), "--for", "hpsv2"]) == 2
    assert "shard 00001 is missing; finish the output" in capsys.readouterr().err


def picture_of(out, layout, place) -> np.ndarray:
    if layout == "files":
        return np.asarray(Image.open(out / "00000" / f"{place:09d}.png").convert("RGB"), int)
    image = pq.read_table(out / "00000.parquet")["image"][place].as_py()
    return np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"), int)


def test_t2i_compbench_finds_prompts_and_numbers_in_names(tmp_path, capsys):
    """As its BLIP_vqa.py and CLIP_similarity.py read them: the prompt before the first _, the number after the last."""
    prompts = ["a green bench and a blue bowl", "the wooden chair, on the left.", "a/b", "snake_case", "long " * 60, ""]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    out, dest = tmp_path / "out", tmp_path / "dest"
    write_output(str(out), str(tmp_path / "val.jsonl"), images_per_prompt=2)
    assert main(["export", str(out), str(dest), "--for", "t2i-compbench"]) == 1
    assert "6 images have prompts that cannot be in a file's name" in capsys.readouterr().out
    found = sorted(os.listdir(dest / "samples"), key=lambda name: int(name.split("_")[-1].split(".")[0]))
    assert [name.split("_")[0] for name in found] == [prompts[0]] * 2 + [prompts[1]] * 2
    assert found[3].endswith("_000003.png")
    assert (dest / "samples" / found[3]).stat().st_ino == (out / "00000" / "000000003.png").stat().st_ino


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--for", "hpsv2", "--id", "nothing"], "no column 'nothing'"),
        (["--where", "weigt > 1"], "did you mean 'weight'"),
        (["--dedup", "phash"], "score it first"),
        (["--for", "dpg-bench"], "--id COLUMN"),
        (["--id", "tag"], "only dpg-bench and hpsv2"),
        (["--for", "dpg-bench", "--id", "nothing"], "no column 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused(options, word, tmp_path, capsys):
    out = write_rows(tmp_path / "out", ROWS)
    assert main(["export", str(out), str(tmp_path / "dest"), *options]) == 2
    assert word in capsys.readouterr().err and not (tmp_path / "dest").exists()


def test_it_writes_over_nobodys_files(tmp_path, capsys):
    out = write_rows(tmp_path / "out", ROWS)
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "mine.txt").write_text("mine")
    assert main(["export", str(out), str(tmp_path / "dest")]) == 2
    assert "holds files that no export" in capsys.readouterr().err
    assert main(["export", str(out), str(out)]) == 2
    export(str(out), str(tmp_path / "other"))
    assert main(["export", str(out), str(tmp_path / "other"), "--where", "weight > 1"]) == 2
    assert "with other options" in capsys.readouterr().err
    assert names(tmp_path / "dest") == ["mine.txt"]


@pytest.mark.parametrize(
    ("dest", "words"),
    [
        (".", "is inside the output itself"),
        ("new/folder", "is inside the output itself"),
        ("../link/x", "is inside the output itself"),
        ("../dangling", "File exists"),
        ("../file", "Not a directory"),
        ("../pipe", "Not a directory"),
        ("../" + "x" * 300, "File name too long"),
        ("../taken", "holds files that no export"),
    ],
)
@pytest.mark.parametrize("form", ["imagefolder", "webdataset", "geneval", "t2i-compbench"])
def test_a_destination_that_cannot_be_is_named(tmp_path, capsys, dest, words, form):
    out = write_rows(tmp_path / "out", ROWS[:2], layout="files")
    before = names(out)
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_bytes(b"")
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    assert main(["export", str(out), str(out / dest), "--for", form]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and names(out) == before
