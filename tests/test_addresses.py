"""Invalid addresses of files, folders and stores: one line, exit status 2, through the real command."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import fsspec
import pytest

from sdbatch.cli import main
from sdbatch.cli import plan_command as plan
from tests.output.writing import write_output
from tests.tables import write_table


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    Path("lora.csv").write_text("prompt,lora\na cat,x\n")
    os.mkfifo("pipe.csv")
    os.symlink("loop", "loop")
    Path("nested/deeper").mkdir(parents=True)
    Path("nested/deeper/a.csv").write_text("prompt\na cat\n")
    Path("mixed").mkdir()
    Path("mixed/a.csv").write_text("prompt\na cat\n")
    os.mkfifo("mixed/b.csv")
    Path("dangling").mkdir()
    Path("dangling/a.csv").write_text("prompt\na cat\n")
    os.symlink("/nowhere", "dangling/b.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "", "out"], "a path is empty"),
        (["status", ""], "a path is empty"),
        (["plan", "data:,a", "out"], "data: URLs are not supported"),
        (["plan", "s3://", "out"], "s3://: names no bucket"),
        (["plan", "s3:///p.parquet", "out"], "s3:///p.parquet: names no bucket; write s3://BUCKET/PATH"),
        (["plan", "p.parquet", "gs:///out"], "gs:///out: names no bucket; write gs://BUCKET/PATH"),
        (["plan", "p.parquet", "out", "--model", "s3:///model"], "s3:///model: names no bucket"),
        (["plan", "lora.csv", "out", "--lora-dir", "s3:///loras"], "s3:///loras/x: names no bucket"),
        (["verify", "s3:///out"], "s3:///out: names no bucket"),
        (["plan", "pipe.csv", "out"], "pipe.csv: is a pipe"),
        (["plan", "/dev/stdin", "out"], "/dev/stdin: is a pipe"),
        (["plan", "mixed", "out"], "mixed/b.csv: is a pipe"),
        (["plan", "dangling", "out"], "dangling/b.csv: is a pipe, a device, or a broken link"),
        (["plan", "nested", "out"], "nested: has no files in it; select those in subfolders with a glob, like"),
        (["plan", "loop", "out"], "levels of symbolic links"),
        (["plan", "x" * 5000 + ".csv", "out"], "File name too long"),
        (["plan", "http://127.0.0.1:1/p.parquet", "out"], "Connect call failed"),
        (["plan", "p.parquet", "out", "--model", "x" * 5000], "no such folder"),
        (["plan", "p.parquet", "out", "--model", "loop"], "no such folder"),
        (["plan", "p.parquet", "out", "--model", ""], "--model is empty"),
        (["status", "hf://x"], "cannot read hf://x"),
        (["plan", "hf://x", "out"], "cannot list hf://x: Repository id must be"),
        (["verify", "out", "--model", "tiny"], "--model tiny: requires --remake"),
        (["plan", "p.parquet", "out", "--controlnet", "x" * 5000, "--control-image", "i.png"], "no such folder"),
        (["plan", "p.parquet", "out", "--ip-adapter", "x/" * 3000, "--ip-adapter-image", "i.png"], "no such file"),
        (["plan", "p.parquet", "out", "--storage-options", '{"a":' + "[" * 100_000], "is not JSON"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(here, capsys, arguments, words):
    began = time.monotonic()
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse's own way
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and len(error.splitlines()) == 1 and words in error
    assert time.monotonic() - began < 20


OPTIONS = ("--storage-options", '{"anon": true}')


@pytest.mark.parametrize(
    ("command", "besides"),
    [
        ("plan p.parquet new", "; only URLs in cells use them"),
        ("status made", ""),
        ("verify made", ""),
        ("gallery made", "; only URLs of input pictures use them"),
        ("sheet made sheet.png", "; only URLs of input pictures use them"),
        ("score made --scorer phash", ""),
        ("export made chosen", ""),
    ],
)
def test_options_of_a_store_are_not_ignored_in_silence(here, capsys, command, besides):
    write_output("made", "p.parquet")
    assert main([*command.split(), *OPTIONS]) == 0
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: --storage-options: ") and line.endswith(f" local{besides}")
    assert main(command.split()) == 0
    assert "--storage-options" not in "".join(capsys.readouterr())


def test_options_that_neither_the_model_nor_its_networks_use_are_not_ignored(here, capsys):
    """What an output was made of may be in a store, also if the output is not."""
    write_output("made", "p.parquet")
    record = json.loads(Path("made/run.json").read_text())
    for source, is_said in (("tiny", True), ("memory://model", False)):
        Path("made/run.json").write_text(json.dumps({**record, "model": {**record["model"], "source": source}}))
        for command in ("verify made --remake 1", "score made --scorer nsfw"):
            main([*command.split(), *OPTIONS])
            assert ("warning: --storage-options: " in capsys.readouterr().err) == is_said


@pytest.mark.parametrize(
    "command",
    ["plan memory://tables/p.parquet new", "plan p.parquet new --vae memory://vae", "export made memory://chosen"],
)
def test_options_that_a_store_uses_cause_no_warning(here, capsys, command):
    write_output("made", "p.parquet")
    with fsspec.open("memory://tables/p.parquet", "wb") as file:
        file.write(Path("p.parquet").read_bytes())
    main([*command.split(), *OPTIONS])
    assert "--storage-options" not in "".join(capsys.readouterr())


def test_links_to_tables_are_tables(here, capsys):
    """What the caches of hubs hold are links."""
    Path("links").mkdir()
    os.symlink(here / "p.parquet", "links/a.parquet")
    os.symlink(here / "p.parquet", "links/b.parquet")
    assert main(["plan", "links", "out"]) == 0
    assert "2 rows in 2 files" in capsys.readouterr().out


def test_an_error_that_was_not_expected_is_one_line_and_a_file(here, capsys, monkeypatch):
    def broken(options: object) -> None:
        raise ZeroDivisionError("no number")

    monkeypatch.setattr(plan.RunSettings, "from_options", broken)
    secret = json.dumps({"key": "a-secret"})
    assert main(["plan", "p.parquet", "out", "--storage-options", secret]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "unexpected error (ZeroDivisionError: no number)" in line
    log = Path(line.rpartition(" ")[2])
    text = log.read_text()
    log.unlink()
    assert "in broken" in text and "a-secret" not in text
