"""Text of any encoding through the real command; encodings other than UTF-8 are reported."""

from __future__ import annotations

import json

import pytest

from tests.outputs import metadata, report, write_table
from tests.prompts.test_mended_texts import BAD, MENDED, texts

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 2, "--actors", 1)
GERMAN = [f"ein schöner Bär Nummer {i}, größer als München" for i in range(3)]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_of_another_encoding_is_made_and_the_encoding_kept(tmp_path, stand_in_command, encoding):
    table, out = tmp_path / "p.csv", tmp_path / "out"
    table.write_bytes("".join(f'"{text}"\r\n' for text in ["prompt", *GERMAN]).encode(encoding))
    said = stand_in_command("generate", table, out, *FAST).stderr
    assert f"is read as {encoding}" in said
    assert [row["prompt"] for row in metadata(out)] == GERMAN
    record = json.loads((out / "run.json").read_text())
    assert [entry["encoding"] for entry in record["inputs"]] == [encoding]
    # A newer reader that took it for something else would make other pictures.
    record["inputs"][0]["encoding"] = "cp1250"
    (out / "run.json").write_text(json.dumps(record))
    assert f"encoding cp1250 → {encoding}" in stand_in_command("generate", table, out, *FAST, status=2).stderr


def test_carried_texts_that_are_mended_are_counted_in_plan_run_and_report(tmp_path, stand_in_command):
    columns = {"prompt": ["a", "b", "c"], "note": texts([BAD, b"fine", BAD]), "number": [1, 2, 3]}
    prompts, out = write_table(tmp_path / "p.parquet", columns), tmp_path / "out"
    line = "2 carried texts not in UTF-8; each invalid byte is replaced by U+FFFD"
    assert line in stand_in_command("plan", prompts, out, *FAST).stdout
    assert line in stand_in_command("generate", prompts, out, *FAST).stdout
    assert report(out)["mended_texts"] == 2
    assert [row["note"] for row in metadata(out)] == [MENDED, "fine", MENDED]
    (out / "00001_stats.json").unlink()
    assert line in stand_in_command("generate", prompts, out, *FAST).stdout
