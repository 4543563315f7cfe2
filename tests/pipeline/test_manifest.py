"""The manifest is created once, never changed, and read with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import stand_in_process
from tests.output.writing import write_output
from tests.outputs import as_version_1, content, markers, metadata, report, write_table
from tests.pipeline.conftest import FAST
from tests.test_cli import sdbatch

ENGINE = {"device": "cpu", "dtype": "fp32", "lanes": 8, "threads": 1, "compile": "off"}


def test_reports_and_appends_are_files_of_their_own(made, stand_in_command):
    table, out = made
    before = (out / "run.json").read_bytes()
    identity = json.loads(before)["id"]
    for number, name in enumerate(("a", "b"), 1):
        write_table(table / f"{name}.parquet", {"prompt": [name] * 4, "id": [1] * 4})
        stand_in_command("generate", table, out, *FAST)
        recorded = json.loads((out / f"inputs-{number:04d}.json").read_text())
        assert [Path(entry["path"]).name for entry in recorded["inputs"]] == [f"{name}.parquet"]
        assert recorded["run"] == identity
    assert (out / "run.json").read_bytes() == before
    assert len(list(out.glob("__reports/*.json"))) == 3 and report(out)["images"] == 16
    assert [row["prompt"] for row in metadata(out)] == ["one"] * 8 + ["a"] * 4 + ["b"] * 4
    assert {marker["run"] for marker in markers(out).values()} == {identity}
    assert "4 of 4 shards done" in stand_in_command("status", out).stdout
    assert "0 bad" in stand_in_command("verify", out).stdout


def test_an_output_of_version_1_is_read_and_continued(made, stand_in_command):
    table, out = made
    as_version_1(out)
    before = content(out)
    (out / "00001_stats.json").unlink()
    manifest = (out / "run.json").read_bytes()
    write_table(table / "a.parquet", {"prompt": ["a"] * 2, "id": [1] * 2})
    assert "2 to do" in stand_in_command("plan", table, out, *FAST).stdout
    refused = stand_in_command("plan", table, out, *FAST, "--compression", "fast", status=2).stderr
    assert "OUT was started with --compression 'small', this run has 'fast'" in refused
    stand_in_command("generate", table, out, *FAST)
    assert (out / "run.json").read_bytes() == manifest
    assert {name: content(out)[name] for name in before} == before
    assert "3 of 3 shards done" in stand_in_command("status", out).stdout
    assert "0 bad" in stand_in_command("verify", out).stdout
    stand_in_command("gallery", out)
    stand_in_command("generate", table, out, *FAST, "--seed", 3, "--overwrite")
    assert json.loads((out / "run.json").read_text())["version"] == 2


@pytest.mark.parametrize(
    ("columns", "word"),
    [({"prompt": ["a"], "id": ["x"]}, "id"), ({"prompt": ["a"], "id": [1], "more": [1]}, "more")],
)
def test_an_appended_table_with_other_columns_is_refused(made, stand_in_command, columns, word):
    table, out = made
    before = content(out)
    (table / "m.parquet").unlink()
    write_table(table / "a.parquet", columns)
    process = stand_in_command("generate", table, out, *FAST, status=2)
    assert word in process.stderr and len(process.stderr.splitlines()) == 1
    assert content(out) == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"shard_rows": -1}, "shard_rows"),
        ({"shard_rows": "4"}, "shard_rows"),
        ({"shard_rows": 10**9}, "shard_rows"),
        ({"shard_rows": True}, "shard_rows"),
        ({"inputs": [{"path": "x", "size": 1, "stamp": "", "rows": 10**15}]}, r"inputs[0].rows"),
        ({"inputs": [{"path": "x", "size": 1, "stamp": "", "rows": 10**12}]}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"starts": [-1]}, "starts"),
        ({"settings": []}, "settings"),
        ({"fields": [{"name": "prompt", "type": "string"}]}, "fields"),
        ({"settings": {"layout": "floppy"}}, "settings.layout"),
        ({"model": {"name": 3}}, "model.name"),
        ({"engine": ENGINE | {"lanes": 0}}, "engine.lanes"),
        ({"engine": ENGINE | {"lanes": 7}}, "engine.lanes"),
        ({"engine": ENGINE | {"device": "toaster"}}, "engine.device"),
        ({"engine": ENGINE | {"threads": "all"}}, "engine.threads"),
        ({"engine": ENGINE | {"of the future": 1}}, "engine.of the future"),
        ({"engine": {"device": "cpu"}}, "engine.dtype"),
        ({"version": 99}, "version 99"),
        ({"version": None}, "version"),
        ({"replaces": [3]}, "replaces[0]"),
    ],
)
def test_a_manifest_of_nonsense_is_one_line_that_names_file_and_key(tmp_path, change, key):
    out = tmp_path / "out"
    write_output(str(out), str(write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8})))
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | change))
    for command in ("status", "verify"):
        (said,) = sdbatch(command, out, status=2).stderr.splitlines()
        assert "run.json" in said and key in said


def test_of_two_runs_at_once_on_a_new_out_with_different_settings_one_is_refused(tmp_path, ray_session):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 24}), tmp_path / "out"
    both = [
        stand_in_process("generate", prompts, out, *FAST, "--seed", seed, address=ray_session, start_seconds=2.0)
        for seed in (1, 2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    loser = next(text for process, text in zip(both, said, strict=True) if process.returncode == 2)
    assert "OUT was started with --seed" in loser
    identity = json.loads((out / "run.json").read_text())["id"]
    assert {marker["run"] for marker in markers(out).values()} == {identity}


def test_a_marker_of_another_run_does_not_count(made, stand_in_command):
    table, out = made
    before = content(out)
    marker = json.loads((out / "00001_stats.json").read_text())
    (out / "00001_stats.json").write_text(json.dumps(marker | {"run": "0" * 32}))
    assert "1 of 2 shards done" in stand_in_command("status", out, status=1).stdout
    assert "4 of them made now" in stand_in_command("generate", table, out, *FAST).stdout
    assert content(out) == before
    assert "2 of 2 shards done" in stand_in_command("status", out).stdout
