"""Streams that are closed, full, or of another encoding lose no work and do not change the exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sdbatch.cli.words import printable
from tests.conftest import REPOSITORY
from tests.output.writing import write_output
from tests.outputs import write_table

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def shell(line: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", line.replace("sdbatch", f"{sys.executable} -m sdbatch"), "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=ENVIRONMENT | env, timeout=300)


@pytest.fixture
def out(tmp_path):
    write_output(str(tmp_path / "out"), write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"]}))
    return tmp_path / "out"


@pytest.mark.parametrize(
    "line",
    [
        "sdbatch status $1 >&-",
        "sdbatch status $1 2>&-",
        "sdbatch status $1 <&- >&- 2>&-",
        "sdbatch status $1 > /dev/full",
        "sdbatch status $1 2> /dev/full",
        "sdbatch --help > /dev/full",
        "sdbatch status $1 | true; exit ${PIPESTATUS[0]}",
        "sdbatch generate --help | true; exit ${PIPESTATUS[0]}",
    ],
)
def test_what_becomes_of_the_words_changes_no_exit_status(out, line):
    process = shell(line, out)
    assert (process.returncode, process.stderr) == (0, b"")


def test_errors_keep_their_exit_status_too(tmp_path):
    for line in ("sdbatch status $1 2>&-", "sdbatch status $1 2>/dev/full", "sdbatch status 2>&-"):
        assert shell(line, tmp_path).returncode == 2


@pytest.mark.parametrize("line", ["sdbatch --help", "sdbatch generate --help", "sdbatch plan 'ein Bär 🐻' out"])
def test_an_encoding_without_the_letters_shows_them_escaped(tmp_path, line):
    process = shell(f"cd {tmp_path}; {line}", PYTHONIOENCODING="ascii")
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.isascii()


@pytest.mark.parametrize("line", [">&- 2>/dev/full", ">/dev/full 2>&-", ">&- 2>&- <&-"])
def test_all_images_are_made_without_streams(tmp_path, ray_session, line):
    command = f"{sys.executable} -m tests.stand_in generate 'a red circle' $1 --steps 1 {line}"
    assert shell(command, tmp_path / "out", RAY_ADDRESS=ray_session).returncode == 0
    assert (tmp_path / "out/00000/000000000.png").exists()


def test_an_argument_that_is_not_utf8_is_named():
    process = shell("sdbatch status $'caf\\xe9'")
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1 and b"argument 2, 'caf\\udce9', is not UTF-8" in process.stderr


def test_an_argument_that_only_python_takes_for_not_utf8_is_named():
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = shell("sdbatch status $'caf\\xc3\\xa9'", **locale)
    said = process.stderr.decode()
    assert process.returncode == 2 and len(said.splitlines()) == 1
    assert "can't be used: Python's encoding is ascii here; set PYTHONUTF8=1" in said


def test_names_and_errors_come_without_what_a_terminal_obeys(tmp_path):
    process = shell('sdbatch status "$1"', f"{tmp_path}/a\x1b[2J\u202e\u009b\nb")
    assert process.returncode == 2
    said = process.stderr.decode()
    assert len(said.splitlines()) == 1
    assert "a\\x1b[2J\\u202e\\x9b\\nb" in said


def test_printable_keeps_what_people_write():
    assert printable("ein Bär 🐻 → 東京") == "ein Bär 🐻 → 東京"
    assert printable("a\tb\n", keep="\n") == "a\\tb\n"
