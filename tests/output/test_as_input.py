"""An output as the table of the next run."""

from __future__ import annotations

import pytest

from sdbatch.cli import main
from sdbatch.errors import InputError
from sdbatch.output.as_input import made_table
from sdbatch.plan.planning import make_plan
from sdbatch.prompts import read_table
from sdbatch.prompts.picture_cells import PictureReader, folder_of
from sdbatch.settings import RunSettings
from tests.gallery.outputs import png, write_output

ROWS = [
    {"prompt": "a red circle", "note": "x", "negative_prompt": "ugly"},
    {"prompt": "a blue circle", "note": "y", "error": "no such sampler"},
    {"prompt": "a green circle", "note": "z", "steps": 7},
    {"prompt": "a yellow circle", "note": "w"},
]


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_images_are_rows_with_their_pictures(layout, tmp_path):
    first = write_output(tmp_path / "first", ROWS, layout=layout, shard_size=3)
    plan = make_plan(str(first), str(tmp_path / "second"), RunSettings(task="image-to-image"))
    assert plan.rows == 3 and any("1 failed images are left out" in text for text in plan.notices)
    assert set(plan.columns.settings) == {"prompt", "negative_prompt", "seed", "image"}
    assert {"input_note", "input_key", "input_steps", "input_sampler"} <= set(plan.columns.carried.values())
    assert not plan.columns.resembling
    pieces = plan.shards.pieces(0, 3)
    (table,) = read_table(plan.files, plan.columns, [pieces])
    rows = table.to_pylist()
    assert [row["prompt"] for row in rows] == ["a red circle", "a green circle", "a yellow circle"]
    assert [row["seed"] for row in rows] == [1000, 1002, 1003]
    assert [row["negative_prompt"] for row in rows] == ["ugly", "", ""]
    assert [row["input_note"] for row in rows] == ["x", "z", "w"] and rows[1]["input_steps"] == 7
    reader = PictureReader(("image",))
    pictures = [reader.picture(row["image"], folder_of(plan.files[0].path)) for row in rows]
    assert [picture._content() for picture in pictures] == [png(0), png(2), png(3)]
    # What holds pictures does not go through Ray; the worker reads it by itself.
    assert plan.columns.held == (() if layout == "files" else ("image",))
    (held,) = read_table(plan.files, plan.columns.only_held(), [pieces])
    assert layout == "files" or held.column("image").to_pylist() == [row["image"] for row in rows]
    assert "image" not in plan.columns.without_held().needed or layout == "files"


def test_only_what_is_finished_and_of_this_output_counts(tmp_path, capsys):
    first = write_output(tmp_path / "first", ROWS, shard_size=2)
    (first / "00001_stats.json").unlink()
    assert main(["plan", str(first), str(tmp_path / "second")]) == 0
    said = capsys.readouterr().out
    assert "1 of its 2 shards are not finished" in said and "1 row in 1 file" in said
    (first / "00000.parquet").unlink()
    with pytest.raises(InputError, match=r"00000\.parquet: is missing"):
        made_table(str(first))
    (first / "00000_stats.json").unlink()
    assert main(["plan", str(first), str(tmp_path / "second")]) == 2
    assert "is an output without a finished shard" in capsys.readouterr().err
    assert main(["plan", str(first), str(first / "inside")]) == 2


def test_a_folder_of_tables_with_some_run_json_is_none(tmp_path):
    (tmp_path / "run.json").write_text('{"version": 3}')
    assert made_table(str(tmp_path)) is None and made_table("a red circle") is None
