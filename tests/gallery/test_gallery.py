"""What the gallery writes: beside the dataset, never into it, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from sdbatch.gallery import write_gallery, write_sheet
from sdbatch.gallery.literals import literal
from sdbatch.output.encoding import read_parameters
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
    assert not re.fullmatch(r"\d{5,}.*", "gallery")
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
