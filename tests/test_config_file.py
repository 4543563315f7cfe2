"""A run in a file: options by name, under those of the command line."""

from __future__ import annotations

import pytest

from sdbatch.cli import main
from tests.outputs import write_table


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return write


def test_the_file_gives_what_the_command_line_leaves_out(tmp_path, config, capsys):
    write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 40})
    path = config(
        f"prompts: {tmp_path}/p.parquet\nout: {tmp_path}/out\nshard-size: 8\nactors: '1:4'\nguidance_scale: 2\n"
    )
    assert main(["plan", "--config", path]) == 0
    assert "5 of up to 8 rows" in capsys.readouterr().out
    assert main(["plan", "--config", path, "--shard-size", "20"]) == 0
    assert "2 of up to 20 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stpes: 3", ["stpes"]),
        ("steps: many", ["steps", "many"]),
        ("- a\n- b", ["mapping"]),
        ("a: [", ["YAML"]),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, config, capsys, text, words):
    arguments = ["plan", "--config", config(text), str(tmp_path / "p.parquet"), str(tmp_path / "out")]
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse's own way
        status = ended.code
    assert status == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    process = sdbatch_command("generate", prompts, tmp_path / "out", "--address", "127.0.0.1:1", status=3)
    assert "no Ray cluster answers at 127.0.0.1:1" in process.stderr
