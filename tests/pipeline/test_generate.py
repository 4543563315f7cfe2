"""The main job through the real command: a table in, a dataset out."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.outputs import markers, metadata, report, write_table

ALONE = ("--actors", 1)
FAST = ("--steps", 2, "--sampler", "ddim", "--shard-size", 8, *ALONE)

EXTRA_COLUMNS = {
    "id": pa.array([10**15 + i for i in range(6)], pa.int64()),
    "flag": pa.array([True, False, None, True, False, None]),
    "score": pa.array([0.5, None, float("inf"), -1.0, 2.0, 3.0], pa.float32()),
    "day": pa.array([datetime.date(2024, 1, d) for d in range(1, 7)], pa.date32()),
    "stamp": pa.array([datetime.datetime(2024, 1, 1, 12, d) for d in range(6)], pa.timestamp("us", tz="UTC")),
    "price": pa.array([decimal.Decimal("1.25")] * 6, pa.decimal128(10, 2)),
    "blob": pa.array([b"\x00\xff", b"", None, b"a", b"b", b"c"], pa.binary()),
    "tags": pa.array([["a", "b"], [], None, ["c"], [None], ["d"]], pa.list_(pa.string())),
    "nested": pa.array(
        [{"a": 1, "b": [{"c": "x"}]}, None, {"a": None, "b": []}, {"a": 4, "b": None}, {"a": 5, "b": []}, None],
        pa.struct([("a", pa.int16()), ("b", pa.list_(pa.struct([("c", pa.string())])))]),
    ),
    "lookup": pa.array([[("k", 1)], [], None, [("z", 2)], [], []], pa.map_(pa.string(), pa.int32())),
    "kind": pa.array(["x", "y", "x", None, "y", "x"]).dictionary_encode(),
    "nothing": pa.nulls(6),
}


def test_every_setting_of_a_row_is_obeyed_and_every_column_carried(tmp_path, sdbatch_command):
    table = {
        "prompt": [
            "a red circle",
            "a blue square",
            "a green triangle",
            "a red circle",
            "円 🔴 قرمز",
            "word " * 4000,
        ],
        "negative_prompt": ["blue", "fog", "", "red", None, None],
        "seed": pa.array([1, 2, 3, None, 2**32 - 1, 6], pa.uint32()),
        "num_inference_steps": pa.array([1, 10, None, 4, 2, 2], pa.uint16()),
        "cfg": pa.array([1.0, 7.5, 3.0, None, 0.0, 12.5], pa.float32()),
        "sampler": ["ddim", "ddpm", None, "dpmpp_2m", "euler", "euler_a"],
        "height": pa.array([64, None, 64, 32, 64, 64], pa.uint16()),
        "width": pa.array([64, 96, 64, 64, None, 64], pa.uint16()),
        **EXTRA_COLUMNS,
    }
    prompts = write_table(tmp_path / "prompts.parquet", table)
    sdbatch_command(
        "generate", prompts, tmp_path / "out", "--sampler", "pndm", "--steps", 3, "--negative-prompt", "fog", *ALONE
    )

    rows = metadata(tmp_path / "out")
    assert [r["status"] for r in rows] == ["ok"] * 6
    assert [r["prompt"] for r in rows] == table["prompt"]
    assert [r["steps"] for r in rows] == [1, 10, 3, 4, 2, 2]
    assert [r["sampler"] for r in rows] == ["ddim", "ddpm", "pndm", "dpmpp_2m", "euler", "euler_a"]
    assert [r["guidance_scale"] for r in rows] == [1.0, 7.5, 3.0, 7.5, 0.0, 12.5]
    assert [r["seed"] for r in rows][:3] == [1, 2, 3]
    assert [(r["width"], r["height"]) for r in rows] == [
        (64, 64),
        (96, 64),
        (64, 64),
        (64, 32),
        (64, 64),
        (64, 64),
    ]
    assert [r["prompt_truncated"] for r in rows] == [False] * 5 + [True]
    for name, column in EXTRA_COLUMNS.items():
        assert [r[name] for r in rows] == column.to_pylist(), name
    for row in rows:
        with Image.open(tmp_path / "out" / row["file_name"]) as picture:
            assert picture.size == (row["width"], row["height"])
            assert picture.text["parameters"].startswith(row["prompt"])
    assert_is_diffusers_picture(tmp_path / "out", rows[1])


def assert_is_diffusers_picture(out: Path, row: dict) -> None:
    """Of a row with the scheduler of the packaged model."""
    import diffusers
    import torch

    from sdbatch.diffusion import inspect_model

    with Image.open(out / row["file_name"]) as picture:
        ours = np.asarray(picture, np.int16)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(inspect_model("tiny").folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        row["prompt"],
        negative_prompt=row["negative_prompt"],
        num_inference_steps=row["steps"],
        guidance_scale=row["guidance_scale"],
        height=row["height"],
        width=row["width"],
        generator=torch.Generator("cpu").manual_seed(row["seed"]),
    ).images[0]
    assert row["negative_prompt"] == "fog" and abs(ours - np.asarray(theirs, np.int16)).max() <= 2


def test_rows_that_cannot_be_run_fail_alone_with_their_reason(tmp_path, stand_in_command):
    bad = [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 100_000}, "1000"),
        ({"height": 63}, "63"),
        ({"width": 10**6}, "1000000"),
        ({"sampler": "no_such_sampler"}, "no_such_sampler"),
        ({"seed": -2}, "seed is -2"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ]
    good = {"prompt": "a red circle", "steps": 2, "height": 64, "width": 64, "sampler": "ddim", "seed": 3}
    rows = [good | {"guidance_scale": 3.0} | change for change, _ in bad]
    rows.insert(4, good | {"guidance_scale": 3.0})
    table = pa.Table.from_pylist(rows)
    prompts = write_table(tmp_path / "prompts.parquet", {n: table[n] for n in table.column_names})
    process = stand_in_command("generate", prompts, tmp_path / "out", *ALONE, status=1)

    made = metadata(tmp_path / "out")
    assert [r["status"] for r in made] == ["ok" if i == 4 else "failed" for i in range(10)]
    reasons = [r["error"] for i, r in enumerate(made) if i != 4]
    for (_, words), reason in zip(bad, reasons, strict=True):
        assert words in reason
    assert all(reason in process.stdout for reason in set(reasons))
    (marker,) = markers(tmp_path / "out").values()
    assert (marker["ok"], marker["failed"]) == (1, 9)
    assert sum(marker["reasons"].values()) == 9


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, ["prompt"]),
        ({"prompt": [1, 2]}, ["prompt", "int64"]),
        ({"prompt": ["a"], "steps": [[20]]}, ["steps", "list"]),
        ({"prompt": ["a"], "status": ["mine"]}, ["status"]),
    ],
)
def test_a_table_that_cannot_be_run_is_refused_whole(tmp_path, sdbatch_command, columns, words):
    prompts = write_table(tmp_path / "table.parquet", columns)
    process = sdbatch_command("generate", prompts, tmp_path / "out", status=2)
    assert len(process.stderr.strip().splitlines()) == 1
    for word in ["table.parquet", *words]:
        assert word in process.stderr
    assert not (tmp_path / "out").exists()


def test_paths_that_cannot_be_read_are_refused(tmp_path, sdbatch_command):
    (tmp_path / "not.parquet").write_bytes(b"hello, I am not Parquet, I am afraid")
    for name in ("not.parquet", "missing.parquet", "missing/*.parquet"):
        process = sdbatch_command("generate", tmp_path / name, tmp_path / "out", status=2)
        assert name in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--sampler", "no_such_sampler"],
        ["--model", "/no/such/model"],
        ["--guidance-scale", "nan"],
        ["--guidance-stop", "0"],
        ["--part", "3/2"],
        ["--height", "63"],
        ["--no-such-option"],
    ],
)
def test_bad_options_are_refused(tmp_path, sdbatch_command, arguments):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"]})
    process = sdbatch_command("generate", prompts, tmp_path / "out", *arguments, status=2)
    assert arguments[0].removeprefix("--").split("-")[0] in process.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_table_is_a_finished_run(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": pa.array([], pa.string())})
    process = stand_in_command("generate", prompts, tmp_path / "out")
    assert "0 of 0 images" in process.stdout
    assert report(tmp_path / "out")["images"] == 0


def test_one_row_and_several_images_a_prompt_use_seed_plus_i(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"], "seed": [5]})
    stand_in_command("generate", prompts, tmp_path / "out", *FAST, "--images-per-prompt", 3)
    rows = metadata(tmp_path / "out")
    assert [(r["key"], r["seed"]) for r in rows] == [("000000000", 5), ("000000001", 6), ("000000002", 7)]
    assert len({r["sha256"] for r in rows}) == 3

    alone = write_table(tmp_path / "alone.parquet", {"prompt": ["a red circle"], "seed": [6]})
    stand_in_command("generate", alone, tmp_path / "one", *FAST)
    assert metadata(tmp_path / "one")[0]["sha256"] == rows[1]["sha256"]


def test_a_thousand_rows_over_three_files_are_all_accounted_for(tmp_path, stand_in_command):
    sizes = (625, 500, 125)
    for number, rows in enumerate(sizes):
        columns = {
            "prompt": [f"a red circle {number}" if i % 100 else "" for i in range(rows)],
            "row": list(range(rows)),
        }
        write_table(tmp_path / "in" / f"{number}.parquet", columns, row_group_size=175)
    stand_in_command(
        "generate", tmp_path / "in", tmp_path / "out", "--steps", 1, "--sampler", "ddim",
        "--guidance-scale", 1, "--actors", 2, "--shard-size", 75, status=1,
    )  # fmt: skip
    out = tmp_path / "out"
    assert len(markers(out)) == 17  # of 75 rows each but the last, across files
    rows = metadata(out)
    assert [r["row"] for r in rows] == [i for n in sizes for i in range(n)]
    assert sum(r["status"] == "ok" for r in rows) == 1250 - 14
    assert len(list(out.rglob("*.png"))) == 1236
    assert len({r["key"] for r in rows}) == 1250
    assert all(r["error"] for r in rows if r["status"] == "failed")
    # A shard is finished when its images are: two workers have at most four shards in progress.
    last_begun = min(p.stat().st_mtime_ns for p in (out / "00016").glob("*.png"))
    finished = [p for p in out.glob("*_stats.json") if p.stat().st_mtime_ns < last_begun]
    assert len(finished) >= 17 - 4


def test_a_second_run_makes_nothing_again(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"] * 4 + [""]})
    stand_in_command("generate", prompts, tmp_path / "out", *FAST, status=1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    process = stand_in_command("generate", prompts, tmp_path / "out", *FAST, status=1)
    assert "0 of them made now" in process.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before
    process = stand_in_command("generate", prompts, tmp_path / "out", *FAST, "--seed", 9, status=2)
    assert "seed" in process.stderr
    stand_in_command("generate", prompts, tmp_path / "out", *FAST, "--seed", 9, "--overwrite", status=1)
    remade = [p for p in before if p.parent.name != "__reports"]
    assert {p.stat().st_mtime_ns for p in remade}.isdisjoint(before.values())
