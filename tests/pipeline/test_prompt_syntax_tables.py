"""Prompts in several syntaxes, in one table, through the real command."""

from __future__ import annotations

import json
import sys

import pandas as pd

from tests.conftest import REPOSITORY
from tests.outputs import metadata

sys.path.insert(0, str(REPOSITORY / "tests" / "diffusion"))

import checkpoints

LONG = "a big red circle beside a small blue square " * 6


def test_rows_of_all_syntaxes_in_one_table(tmp_path, sdbatch_command):
    columns = {
        "prompt": [*["a (red:1.3) circle"] * 2, LONG, LONG, "a red++ circle", "a [red|blue] circle", "red.swap(blue)"],
        "Prompt Syntax": ["a1111", None, None, "a1111", "compel", "a1111", "compel"],
        "long prompts": [None, None, None, None, "truncate", None, None],
        "clip skip": [0, None, None, 1, None, None, None],
    }
    frame = pd.DataFrame(columns | {"seed": 1}).astype({"clip skip": "Int64"})
    frame.to_parquet(tmp_path / "prompts.parquet")
    run = (tmp_path / "prompts.parquet", tmp_path / "out")
    said = sdbatch_command("plan", *run, "--steps", 2, status=1).stdout
    assert "[from:to:when]" in said and "row 5" in said and "prompt: .swap()" in said and "bad rows  2 of 7" in said
    sdbatch_command("generate", *run, "--steps", 2, "--actors", 1, status=1)
    rows = metadata(tmp_path / "out")
    assert [row["prompt_syntax"] for row in rows] == ["a1111", "plain", "plain", "a1111", "compel", "a1111", "compel"]
    assert [row["clip_skip"] for row in rows] == [0, 0, 0, 1, 0, 0, 0]
    assert [row["prompt_truncated"] for row in rows[:5]] == [False, False, True, False, False]
    assert [row["status"] for row in rows] == ["ok"] * 5 + ["failed"] * 2 and "[from:to:when]" in rows[5]["error"]
    assert len({row["sha256"] for row in rows[:5]}) == 5
    said = sdbatch_command("plan", *run, "--steps", 2, "--prompt-syntax", "compel", status=2).stderr
    assert "--prompt-syntax 'plain'" in said and len(said.splitlines()) == 1


def test_sizes_of_sdxl_are_text_or_lists(tmp_path, stand_in_command):
    checkpoints.build_sdxl(tmp_path / "sdxl")
    rows = [
        {"prompt": "a cat", "original_size": [96, 48], "target_size": "(64, 32)"},
        {"prompt": "a cat", "original_size": None, "target_size": ""},
        {"prompt": "a cat", "original_size": [96], "target_size": None},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    run = (tmp_path / "p.json", tmp_path / "out", "--model", tmp_path / "sdxl", "--steps", 1)
    assert "original_size is 96: expected two whole numbers" in stand_in_command("plan", *run, status=1).stdout
    stand_in_command("generate", *run, status=1)
    made = metadata(tmp_path / "out")
    assert [(row["original_size"], row["target_size"], row["status"]) for row in made] == [
        ("96x48", "64x32", "ok"),
        (None, None, "ok"),
        ("96", None, "failed"),
    ]
    pd.DataFrame({"prompt": ["a cat"], "original_size": [[96.5, 48.0]]}).to_parquet(tmp_path / "p.parquet")
    refused = stand_in_command("plan", tmp_path / "p.parquet", tmp_path / "new", *run[2:], status=2).stderr
    assert "holds list<element: double>; expected text: HxW, or lists of two whole numbers" in refused
