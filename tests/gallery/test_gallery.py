"""The gallery's files: beside the dataset, never in it, with the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from sdbatch.gallery import write_gallery, write_sheet
from sdbatch.gallery.literals import literal
from sdbatch.output.encoding import read_parameters
from sdbatch.output.score_run import score
from sdbatch.output.verify import verify
from tests.gallery.outputs import write_output
from tests.output import writing
from tests.outputs import write_table

ROWS = [{"prompt": f"p{n}"} for n in range(5)] + [{"prompt": "bad", "error": "no"}]
LAYOUTS = ["files", "parquet", "webdataset"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_columns(script: Path) -> dict[str, list]:
    """The columns in a file of rows, which is JSON but for the big integers (`9007199254740993n`)."""
    argument = script.read_text().removeprefix("addRows(").removesuffix(");\n")
    return dict(json.loads(re.sub(r"(?<=\d)n(?=[,\]])", "", argument)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_same_every_time_and_leaves_the_dataset_alone(tmp_path, layout):
    out = write_output(tmp_path / "out", ROWS, layout=layout, shard_size=4)
    dataset = contents(out)
    write_gallery(str(out))
    gallery = contents(out / "gallery")
    (out / "gallery" / "data" / "rows-7.js").write_text("left over from a larger dataset")
    assert write_gallery(str(out)) == str(out / "gallery" / "index.html")
    assert contents(out / "gallery") == gallery
    assert {name: data for name, data in contents(out).items() if not name.startswith("gallery/")} == dataset


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_in_it_looks_like_a_part_of_the_dataset(tmp_path, layout):
    out = write_output(tmp_path / "out", ROWS, layout=layout, shard_size=4)
    before = sorted(out.glob("*.parquet"))
    write_gallery(str(out))
    assert sorted(out.glob("*.parquet")) == before
    assert not list((out / "gallery").rglob("*.parquet"))
    strangers = [path.name for path in out.iterdir() if not re.fullmatch(r"\d{5,}.*|run\.json", path.name)]
    assert strangers == ["gallery"]  # and no reader takes that for a shard: verify finds nothing too many
    assert verify(str(out)).surplus == ()
    # Readers that look for pictures in every folder skip those that start with two underscores.
    pictures = [path.relative_to(out) for path in (out / "gallery").rglob("*.png")]
    assert all(path.parts[1] == "__images" for path in pictures)
    assert len(pictures) == (0 if layout == "files" else 5)


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_copied_pictures_are_the_very_files(tmp_path, layout):
    files = write_output(tmp_path / "files", ROWS, layout="files")
    out = write_output(tmp_path / "out", ROWS, layout=layout)
    write_gallery(str(out))
    original = contents(files / "00000")
    copies = contents(out / "gallery" / "__images" / "00000")
    assert {name: hashlib.sha256(data).digest() for name, data in copies.items()} == {
        name: hashlib.sha256(data).digest() for name, data in original.items() if name.endswith(".png")
    }


@pytest.mark.parametrize(("layout", "image_format"), [("files", "png"), ("parquet", "jpeg"), ("webdataset", "webp")])
def test_what_the_real_writer_writes_is_shown_with_the_parameters_in_its_files(tmp_path, layout, image_format):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a dog", "", "a cat"], "steps": [5, 6, 7]})
    out = tmp_path / "out"
    writing.write_output(str(out), str(prompts), shard_rows=2, layout=layout, image_format=image_format)

    page = Path(write_gallery(str(out))).parent
    columns = read_columns(page / "data" / "rows-0.js")
    assert columns["prompt"] == ["a dog", "", "a cat"]
    assert columns["status"] == ["ok", "failed", "ok"]
    assert columns["picture"][1] is columns["parameters"][1] is None
    for row in (0, 2):
        with Image.open(page / columns["picture"][row]) as image:
            assert columns["parameters"][row] == read_parameters(image)
    write_sheet(str(out), str(tmp_path / "sheet.png"))


@pytest.mark.parametrize("folder", ["gallery", "gallery/data"])
def test_it_is_made_again_from_inside_of_itself(tmp_path, monkeypatch, folder):
    out = write_output(tmp_path / "out", ROWS)
    write_gallery(str(out))
    monkeypatch.chdir(out / folder)
    write_gallery(str(out))
    assert Path("index.html" if folder == "gallery" else "run.js").is_file()


def test_links_in_the_place_of_the_gallery_are_not_written_through(tmp_path):
    out = write_output(tmp_path / "out", ROWS, layout="parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (out / "gallery").mkdir()
    (out / "gallery" / "data").symlink_to(elsewhere)
    write_gallery(str(out))
    shutil.rmtree(out / "gallery")
    (out / "gallery").symlink_to(elsewhere)
    write_gallery(str(out))
    assert contents(elsewhere) == {"mine.txt": b"mine"}


def test_a_dataset_on_an_object_store(tmp_path):
    out = write_output(tmp_path / "set", ROWS, layout="webdataset")
    memory = fsspec.filesystem("memory")
    memory.put(f"{out}/", "/bucket/set/", recursive=True)
    assert write_gallery("memory://bucket/set") == "memory://bucket/set/gallery/index.html"
    write_gallery(str(out))
    stored = {
        name.removeprefix("/bucket/set/gallery/"): memory.cat(name) for name in memory.find("/bucket/set/gallery")
    }
    assert stored == contents(out / "gallery")
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("</script>", '"\\u003c/script>"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("\ud800 lone surrogate", '"\\ud800 lone surrogate"'),
        ("🙂", '"\\ud83d\\ude42"'),
        (2**53 - 1, "9007199254740991"),
        (2**53, "9007199254740992n"),
        (-(2**63), "-9223372036854775808n"),
        (True, "true"),
        (None, "null"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        ([1, ("a", None)], '[1,["a",null]]'),
        ({"<": 1.0}, '{"\\u003c":1.0}'),
        (b"1234", '"4 bytes"'),
    ],
)
def test_literals(value, expected):
    assert literal(value) == expected


def test_it_shows_what_a_picture_started_from_and_scores_that_came_later(tmp_path, monkeypatch):
    Image.new("RGB", (900, 600), "red").save(tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256((tmp_path / "red.png").read_bytes()).hexdigest()
    own = {"input_image": "red.png", "input_image_sha256": digest}
    out = write_output(tmp_path / "out", [{"prompt": "a", **own}, {"prompt": "b", **own}, {"prompt": "c"}])
    score(str(out), ["entropy"])
    write_gallery(str(out))
    columns = read_columns(out / "gallery" / "data" / "rows-0.js")
    assert all(isinstance(value, float) for value in columns["entropy"])
    first, second, third = columns["started_from"]
    assert first == second is not None and third is None
    shown = Image.open(out / "gallery" / first)
    assert shown.size == (512, 341) and shown.getpixel((9, 9))[0] > 240
    write_sheet(str(out), str(tmp_path / "sheet.png"), columns=3)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    is_red = (pixels[..., 0] > 250) & (pixels[..., 1] < 5) & (pixels[..., 2] < 5)
    assert is_red.sum() > 2 * 100 * 60
    # A picture that is gone, or is another one now, is left out.
    Image.new("RGB", (900, 600), "blue").save(tmp_path / "red.png")
    write_gallery(str(out))
    assert read_columns(out / "gallery" / "data" / "rows-0.js")["started_from"] == [None] * 3
    assert not list((out / "gallery").rglob("*.jpg"))
