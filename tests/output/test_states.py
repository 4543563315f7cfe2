"""What the commands say of an OUT in each state: not there, new, replaced and not yet made, only failed rows."""

from __future__ import annotations

import json

import pytest

import sdbatch
from sdbatch.cli import main
from sdbatch.errors import UsageError
from tests.gallery.outputs import write_output

READERS = ("sheet OUT sheet.png", "gallery OUT", "export OUT chosen", "score OUT --scorer phash")
UNFINISHED = "none of its 1 shards is finished yet; `sdbatch generate` with the same arguments resumes"


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_output(tmp_path / "out", [{"prompt": "a red circle"}])


def without_markers(out):
    (out / "00000_stats.json").unlink()


def with_an_interrupted_marker(out):
    (out / "00000_stats.json").write_bytes(b"")


def as_another_run(out):
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"id": "0" * 32}))


def answers(command, out, capsys):
    status = main([str(out) if word == "OUT" else word for word in command.split()])
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize("command", [*READERS, "status OUT", "verify OUT"])
def test_a_folder_without_a_manifest_is_no_output(tmp_path, capsys, command):
    for name in ("missing", "."):
        status, said = answers(command, tmp_path / name, capsys)
        assert status == 2 and "has no run.json; is it the output of `sdbatch generate`?" in said


@pytest.mark.parametrize("change", [without_markers, with_an_interrupted_marker, as_another_run])
def test_an_output_without_a_finished_shard_says_so(made, capsys, change):
    change(made)
    for command in READERS:
        status, said = answers(command, made, capsys)
        assert status == 2 and said == f"sdbatch: error: {made}: {UNFINISHED}\n"
    with pytest.raises(UsageError, match="none of its 1 shards is finished yet"):
        sdbatch.open(str(made))
    status, said = answers("status OUT", made, capsys)
    assert status == 1 and "0 of 1 shards done" in said


def test_a_damaged_marker_is_not_taken_for_an_unfinished_shard(made, capsys):
    (made / "00000_stats.json").write_text("{")
    status, said = answers("sheet OUT sheet.png", made, capsys)
    assert status == 2 and "00000_stats.json is damaged" in said


def test_an_output_of_failed_rows_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = write_output(tmp_path / "out", [{"prompt": "a", "error": "no such sampler"}])
    for command in (*READERS, "verify OUT"):
        assert answers(command, out, capsys)[0] == 0
    assert [row["image"] for row in sdbatch.open(str(out))] == [None]


@pytest.mark.parametrize("name", ["run.json", "00000_stats.json"])
def test_a_json_file_of_an_output_is_no_table(made, capsys, monkeypatch, name):
    status, said = answers(f"plan {made}/{name} new", made, capsys)
    assert status == 2 and f"{name}: is a file of the output {made}, not a table; to start from its pictures" in said
    monkeypatch.chdir(made)
    assert "is a file of the output" in answers(f"plan {name} ../new", made, capsys)[1]


def test_a_table_may_have_the_name_of_such_a_file(tmp_path, capsys):
    (tmp_path / "run.json").write_text('[{"prompt": "a red circle"}]')
    assert answers(f"plan {tmp_path}/run.json new", tmp_path, capsys)[0] == 0
