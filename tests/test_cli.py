"""The command line: help, errors, a single prompt, completion, quiet mode."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

import sdbatch as package
from tests.conftest import REPOSITORY, run_here
from tests.outputs import metadata, write_table

COMMANDS = ("generate", "plan", "status", "verify", "gallery", "sheet", "completion")


def sdbatch(*arguments, status=0):
    """The command in this process, for what must need no Ray."""
    said = run_here([str(argument) for argument in arguments])
    assert said.returncode == status, said.stderr
    return said


def test_help_teaches_every_command_with_an_example():
    text = sdbatch("--help").stdout
    assert all(f"    {name}" in text for name in COMMANDS)
    for name in COMMANDS:
        text = sdbatch(name, "--help").stdout
        # Status has no options to show by an example; what it returns is what scripts go by.
        assert "exit status: 0" in text if name == "status" else f"sdbatch {name} " in text.partition("example")[2]


def test_it_runs_as_a_module_and_says_its_version():
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "sdbatch", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == f"sdbatch {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "sdbatch --help"]),
        (["generate", "a b"], ["OUT", "sdbatch generate --help"]),
        (["generate", "a b", "out", "--actors", "many"], ["--actors", "many", "1:16"]),
        (["generate", "a b", "out", "--part", "1"], ["--part", "1/4"]),
        (["generate", "a b", "out", "--storage-options", "{"], ["--storage-options", "JSON"]),
        (["generate", "a b", "out", "--step", "4"], ["--step"]),
        (["generate", "promts", "out"], ["promts", "no such file"]),
        (["generate", "a b", "out", "--column", "prompt=text"], ["'text'", "a b"]),
        (["plan", "a b", "out", "--column", "prompt=a", "--column", "prompt=b"], ["--column prompt", "twice", "'b'"]),
        (["plan", "a b", "out", "--embedding", "x=a", "--embedding", "x=b"], ["--embedding x", "twice", "'a'"]),
        (["plan", "a b", "out", "--images-per-second", "0"], ["--images-per-second"]),
        (["generate", "a b", "out", "--quiet", "--verbose"], ["--quiet", "--verbose"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_what_to_do(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    error = sdbatch(*arguments, status=2).stderr
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words)
    assert not list(tmp_path.iterdir())


def test_a_wrong_model_is_told_before_torch_is_imported(tmp_path):
    code = "import sys; from sdbatch.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, "bench", "--model", str(tmp_path / "nowhere")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == "2 False\n" and "nowhere" in said.stderr


def test_one_prompt_makes_one_picture_and_again_nothing(tmp_path, stand_in_command):
    arguments = ("generate", "a red circle", tmp_path / "out", "--steps", 2)
    said = stand_in_command(*arguments)
    assert said.stderr.splitlines()[0].startswith("1 image with tiny → ")
    with Image.open(tmp_path / "out/00000/000000000.png") as picture:
        assert picture.size == (64, 64)
    assert [(row["prompt"], row["status"]) for row in metadata(tmp_path / "out")] == [("a red circle", "ok")]
    assert "0 of them made now" in stand_in_command(*arguments).stdout
    error = stand_in_command("generate", "a blue square", *arguments[2:], status=2).stderr
    assert "a red circle" in error and "--overwrite" in error


def test_a_quiet_run_says_what_failed_and_nothing_else(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle", ""]})
    said = stand_in_command("generate", prompts, tmp_path / "out", "--steps", 1, "--quiet", status=1)
    assert said.stderr == ""
    assert "1 failed: prompt is empty" in said.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_names_the_command(shell):
    assert "sdbatch" in sdbatch("completion", shell).stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sdbatch gene", {"generate"}),
        ("sdbatch generate --lay", {"--layout"}),
        ("sdbatch generate --layout ", {"files", "parquet", "webdataset"}),
        ("sdbatch generate --sampler dpmpp_3", {"dpmpp_3m"}),
    ],
)
def test_what_the_shell_is_told_to_complete(tmp_path, line, expected):
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }
    command = [sys.executable, "-m", "sdbatch"]
    subprocess.run(command, check=True, env=os.environ | asked | {"PYTHONPATH": str(REPOSITORY)})
    assert {word.strip() for word in answer.read_text().splitlines()} == expected


OUTLIVED = """
import time
import pyarrow as pa, pyarrow.csv as csv
from sdbatch.cli import console

class Slow:
    closed, reads = False, 0

    def read(self, size=-1):
        self.reads += 1
        if self.reads > 2:
            time.sleep(1)
        return (b"a,b\\n" if self.reads == 1 else b"") + b"1,2\\n" * 1024

next(csv.open_csv(pa.PythonFile(Slow(), "r"), csv.ReadOptions(use_threads=False, block_size=4096)))
console({arguments})
"""


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--version"], 0), (["--nothing"], 2), (["plan", "none", "out"], 2)]
)
def test_a_thread_of_a_library_that_outlives_the_command_changes_no_status(arguments, status):
    code = OUTLIVED.replace("{arguments}", repr(arguments))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == status
    assert "terminate" not in process.stderr and bool(process.stdout) == (status == 0)
