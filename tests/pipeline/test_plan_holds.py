"""Rows that the plan calls good end as ok, and bad ones as failed, for random tables."""

from __future__ import annotations

import random
import re

import pytest

from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from tests.outputs import metadata, report, write_table
from tests.test_cli import sdbatch

ROWS = 120


def chance(random_row: random.Random) -> dict[str, object]:
    """A row as people write them, good and bad."""
    pick = random_row.choice
    return {
        "prompt": pick(["a red circle", "ein Bär", "two (red) squares", " ", "", None, "word " * 200]),
        "negative_prompt": pick([None, "", "blue", "word " * 200]),
        "sampler": pick([*SAMPLERS, "Euler a", "DPM++ 2M Karras", "k_lms", "nonsense", None]),
        "steps": pick([1, 2, 3, 5, 8, 13, 0, -1, 1001, None]),
        "guidance_scale": pick([0.0, 1.0, 1.5, 7.5, -3.0, 30.0, float("nan"), float("inf"), None]),
        "height": pick([8, 32, 48, 64, 96, 33, 4, 100_000, None]),
        "width": pick([8, 64, 72, 31, 0, None]),
        "seed": pick([0, -1, 2**63 - 1, 7, -5, None]),
    }


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_table_of_chance(tmp_path, sdbatch_command, seed):
    rows = [chance(random.Random(f"{seed}/{row}")) for row in range(ROWS)]
    # Entirely valid rows, so that not all rows are bad.
    for row in rows[::2]:
        row |= {"prompt": "a red circle", "seed": 1, "height": 64, "width": 64, "steps": 3, "guidance_scale": 2.0}
    prompts = write_table(tmp_path / "p.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    said = sdbatch_command("plan", prompts, tmp_path / "out", status=1).stdout
    (bad,) = re.search(r"bad rows  (\d+) of 120", said).groups()
    sdbatch_command("generate", prompts, tmp_path / "out", status=1)
    made = metadata(tmp_path / "out")
    assert int(bad) == sum(row["status"] == "failed" for row in made) < ROWS
    planned = {
        text for text in re.findall(r"^ +\d+  (?!first)(.+)$", said, re.MULTILINE) if "other reasons" not in text
    }
    assert planned and all(
        any(text.startswith(reason.removesuffix(" …")[:60]) for text in report(tmp_path / "out")["reasons"])
        for reason in planned
    )


@pytest.mark.parametrize("options", [("dpmpp_2m", 999), ("edm_euler", 1001), ("lcm", 51)])
def test_a_sampler_and_steps_that_cannot_be_are_told_by_the_plan(tmp_path, options):
    sampler, steps = options
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a"], "sampler": [sampler], "steps": [steps]})
    said = sdbatch("plan", prompts, tmp_path / "out", status=1).stdout
    assert "bad rows  1 of 1" in said and f"{steps} steps" in said
