"""The reported meaning of columns is what happens, through the real command."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.outputs import as_version_1, metadata, write_table
from tests.test_cli import sdbatch

TABLE = {
    "Prompt": ["a red circle", "a blue square"],
    "Negative prompt": ["blurry", None],
    " seed": pa.array([2**64 - 1, None], pa.uint64()),
    "Sampler": ["ddim", "euler"],
    "Steps": [2, 1],
    "CFG scale": [1.0, 2.0],
    "guidance": [3.0, 4.0],
    "id": ["x", "y"],
    "image": ["x.png", "y.png"],
}


def test_the_plan_and_the_run_say_what_columns_are_for(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", TABLE), tmp_path / "out"
    said = sdbatch("plan", prompts, out).stdout
    assert "guidance_scale (column 'CFG scale')" in said and "seed (column ' seed')" in said
    assert "carried guidance, id, image" in said
    warning = "warning: column 'guidance' is carried to the output but has no effect"
    assert warning in said
    run = stand_in_command("generate", prompts, out, "--images-per-prompt", 2)
    assert "sampler (column 'Sampler')" in run.stderr and warning in run.stderr
    rows = metadata(out)
    assert [row["seed"] for row in rows[:2]] == [2**64 - 1, 0]
    assert [(row["sampler"], row["steps"], row["guidance_scale"], row["negative_prompt"]) for row in rows[1:3]] == [
        ("ddim", 2, 1.0, "blurry"),
        ("euler", 1, 2.0, ""),
    ]
    assert [row["image"] for row in rows] == ["x.png", "x.png", "y.png", "y.png"]
    assert pq.read_schema(out / "00000.parquet").field("seed").type == pa.uint64()
    assert json.loads((out / "run.json").read_text())["columns"]["steps"] == "Steps"
    assert "0 of them made now" in stand_in_command("generate", prompts, out, "--images-per-prompt", 2).stdout


def test_the_size_of_automatic1111_is_width_and_height(tmp_path, stand_in_command):
    table = {"prompt": ["a", "b", "c", "d"], "Steps": [1] * 4, "CFG scale": [1.0] * 4}
    table["Size"] = ["64x128", " 72 X 64 ", None, "large"]
    prompts, out = write_table(tmp_path / "p.parquet", table), tmp_path / "out"
    said = sdbatch("plan", prompts, out, status=1).stdout
    assert "height (column 'Size')" in said and "width (column 'Size')" in said
    stand_in_command("generate", prompts, out, "--sampler", "ddim", status=1)
    rows = metadata(out)
    assert [(row["width"], row["height"]) for row in rows[:3]] == [(64, 128), (72, 64), (64, 64)]
    assert "Size is 'large'" in rows[3]["error"] or "Size is large" in rows[3]["error"]
    # A size is only that if the table has such parameters, and neither a width nor a height.
    for other in ({"prompt": ["a"], "Size": ["XL"]}, {**{k: v[:1] for k, v in table.items()}, "width": [64]}):
        said = sdbatch("plan", write_table(tmp_path / "q.parquet", other), tmp_path / "new").stdout
        assert "carried Size" in said
    said = sdbatch("plan", prompts, tmp_path / "new", "--column", "height=").stdout
    assert "carried Size" in said


def test_an_output_of_an_earlier_version_continues_by_its_own_rules(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"], "Seed": [1, 2]}), tmp_path / "out"
    options = ("--steps", 1, "--sampler", "ddim", "--shard-size", 1)
    stand_in_command("generate", prompts, out, *options, "--part", "1/2")
    as_version_1(out)
    assert "carried Seed" in sdbatch("plan", prompts, out, *options).stdout
    run = stand_in_command("generate", prompts, out, *options, "--log-format", "json")
    first = json.loads(run.stderr.splitlines()[0])
    assert (first["columns"], first["carried"]) == ({"prompt": "prompt"}, ["Seed"])
    assert pq.read_schema(out / "00001.parquet").field("seed").type == pa.int64()
    assert metadata(out)[1]["seed"] != 2
