"""Tables of many small files: shards that span them, through the real command."""

from __future__ import annotations

import json
import shutil

from sdbatch.prompts.seeds import derived_seed
from tests.outputs import as_version_1, content, markers, metadata, write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)


def small_files(folder, names, rows=1):
    for name in names:
        write_table(folder / f"{name}.parquet", {"prompt": [f"{name}, {i}" for i in range(rows)], "tag": [name] * rows})


def test_shards_span_files_whatever_part_made_them_and_what_was_lost(tmp_path, stand_in_command):
    folder, out, parts = tmp_path / "in", tmp_path / "out", tmp_path / "parts"
    small_files(folder, [f"f{i:02}" for i in range(9)])
    write_table(folder / "g.parquet", {"prompt": ["g, 0", "g, 1"], "tag": [None, None]})  # a column of no type
    stand_in_command("generate", folder, out, *FAST)
    assert len(markers(out)) == 3  # of 11 rows
    rows = metadata(out)
    assert [row["prompt"] for row in rows] == [*(f"f{i:02}, 0" for i in range(9)), "g, 0", "g, 1"]
    assert [row["tag"] for row in rows] == [*(f"f{i:02}" for i in range(9)), None, None]
    places = [*((file, 0) for file in range(10)), (9, 1)]
    names = [*(f"f{i:02}.parquet" for i in range(9)), "g.parquet"]
    assert [(row["source_file"], row["source_row"]) for row in rows] == [(names[file], row) for file, row in places]
    assert [row["seed"] for row in rows] == [derived_seed(0, *place) for place in places]
    whole = content(out)

    for part in ("2/2", "1/2"):
        stand_in_command("generate", folder, parts, *FAST, "--part", part)
        assert "00001_stats.json" in markers(parts) and (part == "1/2") == ("00000_stats.json" in markers(parts))
    assert content(parts) == whole
    (out / "00001_stats.json").unlink()
    shutil.rmtree(out / "00001")
    stand_in_command("generate", folder, out, *FAST)
    assert content(out) == whole

    small_files(folder, ["a", "z"], rows=3)
    process = stand_in_command("generate", folder, out, *FAST)
    assert "17 of 17 images" in process.stdout and "6 of them made now" in process.stdout
    after = content(out)
    assert {name: after[name] for name in whole} == whole
    assert [m["rows"] for m in markers(out).values()] == [4, 4, 3, 4, 2]
    assert "0 bad" in stand_in_command("verify", out).stdout


def test_a_dataset_that_was_cut_file_by_file_continues_that_way(tmp_path, stand_in_command):
    folder, out = tmp_path / "in", tmp_path / "out"
    small_files(folder, ["a"], rows=6)
    stand_in_command("generate", folder, out, *FAST, "--compression", "small")  # of one file, both rules make the same
    assert json.loads((out / "run.json").read_text())["starts"] == [0]
    as_version_1(out)
    assert "source_file" not in metadata(out)[0]
    before = content(out)
    (out / "00001_stats.json").unlink()
    small_files(folder, ["b", "c"], rows=2)
    stand_in_command("generate", folder, out, *FAST)
    assert [m["rows"] for m in markers(out).values()] == [4, 2, 2, 2]
    after = content(out)
    assert {name: after[name] for name in before} == before
    assert all("source_file" not in row for row in metadata(out))


def test_a_damaged_file_in_the_middle_is_named(tmp_path, stand_in_command):
    folder, out = tmp_path / "in", tmp_path / "out"
    small_files(folder, [f"f{i}" for i in range(3)], rows=2)
    damaged = folder / "f1.parquet"
    data = bytearray(damaged.read_bytes())
    data[4:60] = bytes(56)
    damaged.write_bytes(data)
    process = stand_in_command("generate", folder, out, *FAST, status=3)
    assert "f1.parquet: is truncated or damaged" in process.stderr
