"""One OUT over time: files added later, changed files, changed settings."""

from __future__ import annotations

import json

from tests.outputs import as_before_fields, content, markers, metadata, write_table
from tests.pipeline.conftest import FAST


def test_a_file_that_changed_is_refused_and_nothing_is_lost(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one", "two"]}), tmp_path / "out"
    stand_in_command("generate", prompts, out, *FAST)
    before = content(out)
    write_table(prompts, {"prompt": ["one", "three"]})
    process = stand_in_command("generate", prompts, out, *FAST, status=2)
    assert "p.parquet changed" in process.stderr
    assert "--overwrite" in process.stderr
    assert content(out) == before


def test_a_table_that_moved_continues_where_it_is_now(tmp_path, stand_in_command):
    table, out = tmp_path / "here", tmp_path / "out"
    table.mkdir()
    for name, prompt in (("a.parquet", "one"), ("b.parquet", "two")):
        write_table(table / name, {"prompt": [prompt] * 4})
    stand_in_command("generate", table, out, *FAST)
    before = content(out)
    (out / "00001_stats.json").unlink()
    table = table.rename(tmp_path / "there")
    write_table(table / "0.parquet", {"prompt": ["three"] * 4})  # goes before them by name, not by number
    process = stand_in_command("generate", table, out, *FAST)
    assert "8 of them made now" in process.stdout
    assert {name: sha for name, sha in content(out).items() if name in before} == before
    # The name alone makes no table the same one.
    (table / "a.parquet").rename(tmp_path / "a.parquet")
    (table / "sub").mkdir()
    write_table(table / "sub" / "a.parquet", {"prompt": ["four"] * 4})
    process = stand_in_command("generate", f"{table}/**/*.parquet", out, *FAST, status=2)
    assert "a.parquet was an input of OUT" in process.stderr


def test_a_dataset_from_before_a_setting_existed_continues(made, stand_in_command):
    prompts, out = made
    before = content(out)
    (out / "00001_stats.json").unlink()
    record = json.loads((out / "run.json").read_text())
    for part, names in {
        "settings": ("guidance_start", "guidance_stop"),
        "engine": ("quantization", "deep_cache", "compile_sizes"),
    }.items():
        for name in names:
            del record[part][name]
    (out / "run.json").write_text(json.dumps(record))
    stand_in_command("generate", prompts, out, *FAST, "--deep-cache", 3, status=2)
    stand_in_command("generate", prompts, out, *FAST)
    assert content(out) == before and len(markers(out)) == 2


def test_a_dataset_from_before_guidance_had_columns_continues_with_its_own(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8, "id": list(range(8))}), tmp_path / "out"
    options = ("--steps", 4, "--sampler", "ddim", "--shard-size", 4, "--actors", 1, "--guidance-start", 0.3)
    stand_in_command("generate", prompts, out, *options, "--guidance-stop", 0.7)
    as_before_fields(out)
    before = content(out)
    (out / "00001_stats.json").unlink()
    stand_in_command("generate", prompts, out, *options, "--guidance-stop", 0.6, status=2)
    stand_in_command("generate", prompts, out, *options, "--guidance-stop", 0.7)
    assert content(out) == before and len(markers(out)) == 2
    assert "guidance_stop" not in metadata(out)[0]


def test_what_would_make_other_pictures_is_refused(made, stand_in_command):
    prompts, out = made
    lanes = json.loads((out / "run.json").read_text())["engine"]["lanes"]
    (out / "00001_stats.json").unlink()
    changed = {
        "--lanes": lanes + 2,
        "--dtype": "bf16",
        "--shard-size": 8,
        "--image-format": "jpeg",
        "--cpus-per-actor": 2,
    }
    changed |= {"--deep-cache": 2, "--quantization": "int8", "--compile-sizes": "96x64"}
    for option, value in changed.items():
        process = stand_in_command("generate", prompts, out, *FAST, option, value, status=2)
        assert option.removeprefix("--").split("-")[0] in process.stderr
    refused = stand_in_command("plan", prompts, out, *FAST, "--lanes", lanes + 2, status=2).stderr
    assert f"--lanes {lanes}" in refused
    stand_in_command("generate", prompts, out, *FAST)
    assert len(markers(out)) == 2
