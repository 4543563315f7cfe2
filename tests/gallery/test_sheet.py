"""The contact sheet: order, scaling, failed rows, layouts, and text that no font knows."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from sdbatch.errors import StorageError, UsageError
from sdbatch.gallery.lettering import Style, set_text
from sdbatch.gallery.sheet import COLUMN_GAP, MARGIN, write_sheet
from tests.gallery.outputs import png, write_output

HOSTILE = [
    "赤い丸、青い四角、東京タワーの夜景と満月の長い長い長い長い長いプロンプト",
    "🙂🎉👩‍👩‍👧‍👦 party",
    "مرحبا \u202eبالعالم\u202c",
    "nul \x00 tab \t line\nbreak \u2028 \u2029 \x1b[31m",
    "x" * 50_000,
    " ".join(["word"] * 50_000),
    "Z̡̢͔a̷l̶g̴o̵" * 40,
    "\U0010ffff\ufffe\ue000 private",
    "",
    "   ",
]


def sheet_of(out: Path, **kwargs) -> Image.Image:
    path = out.parent / "sheet.png"
    write_sheet(str(out), str(path), **kwargs)
    return Image.open(path).convert("RGB")


def place(index: int, columns: int, box: int = 384) -> int:
    """The left edge of a cell's picture."""
    return MARGIN + index % columns * (box + COLUMN_GAP)


def find_picture(sheet: Image.Image, left: int, after: int = 0) -> int:
    """The first line below `after` on which, a little right of `left`, something is drawn."""
    paper = sheet.getpixel((0, 0))
    return next(y for y in range(after, sheet.height) if sheet.getpixel((left + 4, y)) != paper)


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_pictures_stand_in_input_order_and_are_enlarged_by_a_whole_factor(tmp_path, layout):
    out = write_output(tmp_path / "out", [{"prompt": f"p{n}"} for n in range(5)], layout=layout, shard_size=2)
    sheet = sheet_of(out, columns=5)
    top = find_picture(sheet, place(4, 5), after=260)
    for index in range(5):
        left = place(index, 5)
        crop = sheet.crop((left + 1, top + 1, left + 383, top + 383))  # without the hairline
        picture = Image.open(io.BytesIO(png(index))).resize((384, 384), Image.Resampling.LANCZOS)
        assert crop.tobytes() == picture.crop((1, 1, 383, 383)).tobytes()


def test_a_failed_row_is_a_plain_cell_with_its_reason(tmp_path):
    rows = [{"prompt": "fine"}, {"prompt": "bad", "error": "unknown sampler 'nope'"}]
    sheet = sheet_of(write_output(tmp_path / "out", rows))
    left = place(1, 2)
    top = find_picture(sheet, left, after=260)
    cell = sheet.crop((left, top, left + 384, top + 384))
    colours = sorted(cell.getcolors(100_000))
    assert colours[-1][0] > 0.9 * 384 * 384  # one plain ground
    assert any(red > 150 and green < 80 for _, (red, green, _) in colours)  # with the reason on it


def test_only_the_first_rows_are_drawn(tmp_path):
    out = write_output(tmp_path / "out", [{"prompt": f"p{n}"} for n in range(30)])
    assert sheet_of(out, columns=3, limit=6).height < sheet_of(out, columns=3, limit=30).height / 3


def test_large_and_oblong_pictures_fit_their_cells(tmp_path):
    sizes = [(1024, 512), (64, 96), (300, 700), (1, 2)]
    rows = [{"prompt": str(size), "width": size[0], "height": size[1]} for size in sizes]
    sheet = sheet_of(write_output(tmp_path / "out", rows), columns=2)
    assert sheet.width == 2 * MARGIN + 2 * 512 + COLUMN_GAP


def test_a_dataset_without_pictures_still_has_a_sheet(tmp_path):
    out = write_output(tmp_path / "out", [{"prompt": "", "error": "the prompt is empty"}])
    assert sheet_of(out).width == 2 * MARGIN + 384


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no run\.json"):
        write_sheet(str(tmp_path), str(tmp_path / "sheet.png"))


def test_any_text_is_drawn(tmp_path):
    rows = [{"prompt": text} for text in HOSTILE] + [{"prompt": "x", "error": text or "?"} for text in HOSTILE]
    sheet = sheet_of(write_output(tmp_path / "out", rows))
    assert sheet.width == 2 * MARGIN + 6 * 384 + 5 * COLUMN_GAP


def test_text_is_wrapped_to_its_width_and_cut_with_an_ellipsis():
    style = Style(size=25, leading=34, colour="#000")
    lines = [line.text for line in set_text("the quick brown fox jumps over the lazy dog " * 3, style, 200, 3)]
    assert len(lines) == 3
    assert lines[0] == "the quick brown"
    assert lines[2].endswith("…")
    assert [line.text for line in set_text("short", style, 200, 3)] == ["short"]
    assert set_text(" \n ", style, 200, 3) == []


def test_the_same_dataset_gives_the_same_sheet(tmp_path):
    out = write_output(tmp_path / "out", [{"prompt": text} for text in HOSTILE])
    assert sheet_of(out).tobytes() == sheet_of(out).tobytes()


def test_a_pipe_in_the_place_of_the_sheet_is_refused_and_does_not_block(tmp_path):
    out = write_output(tmp_path / "out", [{"prompt": "a"}])
    os.mkfifo(tmp_path / "sheet.png")
    with pytest.raises(StorageError, match="is not a regular file"):
        write_sheet(str(out), str(tmp_path / "sheet.png"))
