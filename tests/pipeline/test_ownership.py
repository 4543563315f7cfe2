"""Files that do not belong to this OUT by its manifest are never deleted or overwritten, whatever their names."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from sdbatch.diffusion import inspect_model
from sdbatch.plan.planning import make_plan
from sdbatch.settings import RunSettings
from tests.outputs import markers, metadata, write_table
from tests.pipeline.conftest import FAST


def snapshot(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refusal(process) -> str:
    """The one line that a refused command says."""
    (line,) = process.stderr.strip().splitlines()
    return line


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8})


OTHERS = ("20240101/mine.png", "gallery/index.html", "20240101.parquet", "00000.tar", "notes.txt", "00000/notes.txt")


def test_overwrite_of_a_folder_that_sdbatch_never_made_removes_nothing(tmp_path, prompts, stand_in_command):
    out = tmp_path / "out"
    for name in OTHERS:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    stand_in_command("generate", prompts, out, *FAST, "--overwrite")
    stand_in_command("generate", prompts, out, *FAST, "--overwrite", "--layout", "parquet")
    assert [(out / name).read_text() for name in OTHERS] == list(OTHERS)
    assert len(markers(out)) == 2 and not list(out.rglob("0*.png"))


@pytest.mark.parametrize("name", ["00001.parquet", "00000/000000003.png", "00001_stats.json", "inputs-0001.json"])
@pytest.mark.parametrize("option", [(), ("--overwrite",)])
def test_a_folder_with_a_file_of_a_name_to_be_written_is_refused(tmp_path, prompts, stand_in_command, name, option):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = snapshot(out)
    assert name in refusal(stand_in_command("plan", prompts, out, *FAST, *option, status=2))
    assert snapshot(out) == before


def test_a_table_named_as_a_shard_is_not_replaced_by_its_metadata(tmp_path, stand_in_command):
    table = write_table(tmp_path / "data" / "00000.parquet", {"prompt": ["one"] * 4})
    before = snapshot(table.parent)
    for prompts in (table, table.parent, f"{table.parent}/*.parquet"):
        for option in ((), ("--overwrite",)):
            line = refusal(stand_in_command("generate", prompts, table.parent, *FAST, *option, status=2))
            assert "prompt table" in line
    assert snapshot(table.parent) == before


def planned(prompts: object, out: object, **options: object) -> str:
    """What the plan refuses the run with."""
    from sdbatch.errors import UsageError

    with pytest.raises(UsageError) as error:
        make_plan(str(prompts), str(out), RunSettings.from_options(options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_out_that_is_no_place_for_an_output_is_refused(tmp_path, prompts, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    for out, word in {
        "": "empty",
        " ": "empty",
        "/": "root",
        "//": "root",
        ".": "current folder",
        str(tmp_path): "current folder",
        "home": "home",
        "link/": "home",
        "file://" + str(tmp_path / "home"): "home",
        "memory://out": "memory",
        "data:out": "data",
        "https://example.org/out": "https",
        "zip://out.zip": "not supported",
        "simplecache::s3://bucket/out": "not supported",
        "a\0b": "NUL",
    }.items():
        assert word in planned(prompts, out), out


def test_an_out_that_holds_the_table_or_the_model_is_refused(tmp_path, prompts):
    model = tmp_path / "models" / "mine"
    shutil.copytree(inspect_model("tiny").folder, model)
    (tmp_path / "link").symlink_to(tmp_path / "models")
    for out in (model, tmp_path / "models", tmp_path / "link"):
        assert "holds the model" in planned(prompts, out, model=str(model))
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    assert "prompt table" in planned(prompts, tmp_path / "elsewhere")
    inner = write_table(tmp_path / "set" / "in" / "p.parquet", {"prompt": ["one"]})
    assert "prompt table" in planned(inner, tmp_path / "set")
    for pattern in ("**/*.parquet", "set/*/*.parquet", "s*/out/0000[1-3].parquet"):
        write_table(tmp_path / "set" / "out" / "00002.parquet", {"prompt": ["one"]})
        message = planned(tmp_path / pattern, tmp_path / "set" / "out")
        assert "prompt table" in message


def test_a_glob_that_would_match_the_output_later_is_refused(tmp_path):
    write_table(tmp_path / "set" / "in" / "p.parquet", {"prompt": ["one"]})
    for pattern in ("set/**/*.parquet", "set/*/*.parquet"):
        assert "would read the output" in planned(tmp_path / pattern, tmp_path / "set" / "out")
    make_plan(str(tmp_path / "set/in/*.parquet"), str(tmp_path / "set" / "out"), RunSettings())


def test_a_folder_s_name_is_not_a_url_chain(tmp_path, made, stand_in_command):
    prompts, out = made
    before = snapshot(out)
    stand_in_command("generate", prompts, tmp_path / "out::2", *FAST, "--overwrite")
    assert snapshot(out) == before
    assert len(markers(tmp_path / "out::2")) == 2


def test_a_later_table_is_refused_where_a_stranger_has_its_shard_s_name(made, stand_in_command):
    table, out = made
    (out / "00002.parquet").write_text("mine")
    write_table(table / "n.parquet", {"prompt": ["b"] * 4, "id": [1] * 4})
    before = snapshot(out)
    assert "00002.parquet" in refusal(stand_in_command("generate", table, out, *FAST, status=2))
    assert snapshot(out) == before


def test_sheet_and_gallery_write_over_nothing_that_is_not_theirs(tmp_path, made, stand_in_command):
    prompts, out = made
    before = snapshot(out)
    (tmp_path / "text.png").write_text("not a picture")
    for path in ("out/00000.parquet", "out/00000/000000000.png", "out/run.json", "text.png", "in/m.parquet", "out"):
        refusal(stand_in_command("sheet", out, tmp_path / path, status=2))
    (tmp_path / "link").symlink_to(out)
    refusal(stand_in_command("sheet", out, tmp_path / "link" / "00001" / "000010003.png", status=2))
    assert snapshot(out) == before
    for _ in range(2):
        stand_in_command("sheet", out, tmp_path / "sheet.png")

    (out / "gallery").mkdir()
    (out / "gallery" / "index.html").write_text("mine")
    assert "gallery/index.html" in refusal(stand_in_command("gallery", out, status=2))
    assert (out / "gallery" / "index.html").read_text() == "mine"
    (out / "gallery" / "index.html").rename(out / "gallery" / "notes.html")
    for _ in range(2):
        stand_in_command("gallery", out)
    stand_in_command("generate", prompts, out, *FAST, "--seed", 2, "--overwrite")
    assert [p.name for p in (out / "gallery").rglob("*")] == ["notes.html"]
    assert len(metadata(out)) == 8
