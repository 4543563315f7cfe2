"""A damaged marker is reported, and its shard is made again."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import sdbatch
from sdbatch.errors import StorageError
from tests.output.writing import write_output
from tests.outputs import content, markers, write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)


def test_shards_of_damaged_markers_are_told_and_made_again(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 16}), tmp_path / "out"
    stand_in_command("generate", prompts, out, *FAST)
    before, good = content(out), markers(out)
    (out / "00000_stats.json").write_text('{"shard": 0')
    shutil.copy(out / "00003_stats.json", out / "00001_stats.json")
    (out / "00002_stats.json").write_text(json.dumps(good["00002_stats.json"] | {"ok": -1}))
    planned = stand_in_command("plan", prompts, out, *FAST).stdout
    assert "3 to do" in planned and planned.count("makes its shard again") == 3
    os.truncate(out / "00003_stats.json", 1 << 30)
    process = stand_in_command("generate", prompts, out, *FAST)
    warnings = [line for line in process.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 4 and all("is damaged" in line and "makes its shard again" in line for line in warnings)
    assert "16 of them made now" in process.stdout
    assert content(out) == before and [m["shard"] for m in markers(out).values()] == [0, 1, 2, 3]
    assert "warning" not in stand_in_command("generate", prompts, out, *FAST).stderr


def test_open_leaves_out_what_another_run_made_and_says_what_is_damaged(tmp_path):
    out = tmp_path / "out"
    write_output(str(out), str(write_table(tmp_path / "p.parquet", {"prompt": ["a", "b", "c", "d"]})), shard_rows=1)
    marker = json.loads((out / "00002_stats.json").read_text())
    (out / "00002_stats.json").write_text(json.dumps(marker | {"run": "0" * 32}))
    dataset = sdbatch.open(str(out))
    assert len(dataset) == 3 and [row["prompt"] for row in dataset] == ["a", "b", "d"]
    assert list(dataset.to_pandas()["prompt"]) == ["a", "b", "d"]
    (out / "00003_stats.json").write_text("{")
    with pytest.raises(StorageError, match=r"00003_stats\.json is damaged"):
        list(dataset)
