"""Runs that score, keep and try again, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.outputs import content, metadata, report, write_table

PROMPTS = [
    "a red circle to the left of a blue square, white background",
    "a yellow triangle above a green circle, black background",
    "a purple cross on pink",
    "a green square to the left of a yellow cross, pink background",
]
FEW_STEPS = ("--steps", 3, "--sampler", "ddim", "--actors", 1, "--shard-size", 6)
TRYING = ("--scorer", "obedience", "--scorer", "phash", "--keep", "obedience == 1 and steps < 9", "--attempts", 3)
TRYING = (*TRYING, "--scorer", "tests.pipeline.test_judging:nsfw", "--on-nsfw", "blur")


def nsfw(picture, row) -> bool:
    """In place of the safety checker, whose own test compares it with diffusers."""
    return row["prompt"].startswith("a red")


@pytest.fixture(scope="module")
def made(tmp_path_factory, sdbatch_command) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    write_table(folder / "p.parquet", {"prompt": PROMPTS * 3, "seed": list(range(12)), "clip": ["mine"] * 12})
    sdbatch_command("generate", folder / "p.parquet", folder / "out", *FEW_STEPS, *TRYING)
    return folder


def test_rows_are_tried_until_they_are_kept(made, sdbatch_command):
    out = made / "out"
    rows = metadata(out)
    assert {row["attempt"] for row in rows} >= {1, 2} and {row["accepted"] for row in rows} == {True, False}
    assert all(row["accepted"] == (row["obedience"] == 1) for row in rows)
    assert all(len(row["phash"]) == 16 and row["clip"] == "mine" for row in rows)
    assert [row["nsfw"] for row in rows] == [row["prompt"] == PROMPTS[0] for row in rows]
    # The first attempt has the row's own seed; later ones have seeds that no row has.
    assert all((row["seed"] == number) == (row["attempt"] == 1) for number, row in enumerate(rows))
    assert len({row["seed"] for row in rows}) == 12
    sums = report(out)
    assert sums["totals"]["attempts"] >= sum(row["attempt"] - 1 for row in rows) > 0
    assert sums["totals"]["exhausted"] == sum(not row["accepted"] for row in rows)
    assert sums["rejected"]["obedience == 1"] == sums["totals"]["attempts"] + sums["totals"]["exhausted"]
    verified = sdbatch_command("verify", out, "--remake", 12)
    assert (
        "0 bad" in verified.stdout
        and "12 images made again from their metadata, 0 of them different" in verified.stdout
    )


def test_resume_workers_and_company_decide_nothing(made, tmp_path, sdbatch_command):
    before = content(made / "out")
    resumed = shutil.copytree(made / "out", tmp_path / "resumed")
    (resumed / "00001_stats.json").unlink()
    shutil.rmtree(resumed / "00001")
    sdbatch_command("generate", made / "p.parquet", resumed, *FEW_STEPS, *TRYING, "--actors", 2)
    assert content(resumed) == before
    for option in (("--keep", "obedience > 0"), ("--attempts", 2), ("--best", "obedience")):
        refused = sdbatch_command("generate", made / "p.parquet", resumed, *FEW_STEPS, *TRYING, *option, status=2)
        assert option[0] in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert content(resumed) == before


def test_a_function_of_ones_own_and_rows_that_fail(tmp_path, monkeypatch, stand_in_command):
    (tmp_path / "mine.py").write_text(
        "def grey(picture, row) -> float:\n"
        "    if row['prompt'] == 'broken': raise KeyError('no idea')\n"
        "    return 1000.0 if row['prompt'] == 'gone' else sum(picture.resize((1, 1)).getpixel((0, 0))) / 3\n"
    )
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle", "broken", "gone"]})
    wanted = ("--scorer", "mine:grey", "--keep", "grey < 999", "--attempts", 2, "--on-exhausted", "fail")
    monkeypatch.syspath_prepend(tmp_path)
    run = stand_in_command("generate", prompts, tmp_path / "out", *FEW_STEPS, *wanted, status=1)
    rows = metadata(tmp_path / "out")
    assert [row["error"] for row in rows] == [
        None,
        "scorer mine:grey: KeyError: 'no idea'",
        "no picture in 2 attempts was kept (--keep 'grey < 999')",
    ]
    assert 0 < rows[0]["grey"] < 256 and rows[1]["grey"] is None and rows[2]["grey"] == 1000
    assert "1 row without a kept picture" in run.stdout and "2 rejected: grey < 999" in run.stdout


def test_a_configuration_file_and_what_it_plans(made, tmp_path, sdbatch_command):
    config = tmp_path / "run.yaml"
    config.write_text(
        "scorer: [obedience, phash, 'tests.pipeline.test_judging:nsfw']\nkeep: obedience == 1 and steps < 9\n"
        "attempts: 3\non_nsfw: blur\n"
    )
    plan = sdbatch_command("plan", made / "p.parquet", made / "out", *FEW_STEPS, "--config", config)
    assert "0 to do" in plan.stdout
    config.write_text("scorer: obedience\n")
    refused = sdbatch_command("plan", made / "p.parquet", made / "out", "--config", config, status=2)
    assert "line 1: scorer is 'obedience'; expected a list" in refused.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--scorer", "clipp"), "did you mean 'clip'"),
        (("--scorer", "entropy", "--scorer", "entropy"), "is given twice"),
        (("--scorer", "nowhere:f"), "can't be imported"),
        (("--attempts", 2), "--attempts 2: needs --keep"),
        (("--keep", "blip > 1"), "there is no column 'blip'"),
        (("--scorer", "entropy", "--keep", "entropy"), "is not a condition"),
        (("--scorer", "entropy", "--keep", "__import__('os')"), "is not supported"),
        (("--scorer", "entropy", "--keep", "entropy > 1", "--best", "steps"), "is not a numeric score"),
        (("--on-nsfw", "blur"), "--on-nsfw blur: needs --scorer nsfw"),
        (("--scorer-model", "clip=x"), "there is no --scorer clip"),
        (("--scorer", "aesthetic", "--scorer-model", "aesthetic=/nowhere/at/all"), "no such file or folder"),
        (("--scorer", "clip"), "'clip' has the name of the output's column 'clip'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(made, tmp_path, sdbatch_command, options, word):
    for command in ("plan", "generate"):
        run = sdbatch_command(command, made / "p.parquet", tmp_path / "out", *options, status=2)
        assert word in run.stderr and len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_flagged_pictures_are_blurred_or_dropped(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle", "a blue circle"], "seed": [1, 1]})

    def run(out, *options, status=0):
        stand_in_command("generate", prompts, tmp_path / out, *FEW_STEPS, *options, status=status)
        rows = metadata(tmp_path / out)
        return rows, [row["file_name"] and np.asarray(Image.open(tmp_path / out / row["file_name"])) for row in rows]

    scorer = ("--scorer", "tests.pipeline.test_judging:nsfw")
    _, plain = run("plain")
    rows, pictures = run("blurred", *scorer, "--on-nsfw", "blur")
    assert [row["nsfw"] for row in rows] == [True, False]
    assert np.array_equal(pictures[1], plain[1])
    assert (
        np.abs(np.diff(pictures[0].astype(int), axis=0)).max() < np.abs(np.diff(plain[0].astype(int), axis=0)).max() / 3
    )
    rows, pictures = run("dropped", *scorer, "--on-nsfw", "drop", status=1)
    assert rows[0]["error"] == "flagged by the safety checker (--on-nsfw drop)" and rows[0]["nsfw"] is True
    assert np.array_equal(pictures[1], plain[1])


def test_status_of_scorers_is_kept(made):
    record = json.loads((made / "out" / "run.json").read_text())
    assert (
        record["settings"]["scorer"] == ["obedience", "phash", "tests.pipeline.test_judging:nsfw"]
        and record["settings"]["attempts"] == 3
    )
    (engine,) = report(made / "out")["engines"]
    assert set(engine["scorers"]) >= {"obedience", "phash"} and engine["scorers"]["phash"]["imagehash"]
