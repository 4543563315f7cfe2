"""A run's progress output, on streams of every kind."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections import Counter

import pyte
import pytest

from sdbatch.cli import progress as module
from sdbatch.cli.progress import ProgressLine
from sdbatch.errors import RunError
from sdbatch.run.coordinator import Snapshot
from sdbatch.run.report import RunReport
from tests.conftest import REPOSITORY
from tests.outputs import write_table


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def snapshot(images, *, problems=(), lost=0, failed=0):
    workers = {"aaaaaaaaaa": {"images": images, "failed": failed}}
    return Snapshot(workers, dict(workers["aaaaaaaaaa"]), lost, list(problems))


def run(clock, seconds, **options):
    """A run of a million images at ten a second; returns what was said."""
    stream, results = io.StringIO(), io.StringIO()
    line = ProgressLine(stream, results, **options)
    line._images = 1_000_000
    for second in range(seconds):
        clock.now += 1
        line.update(snapshot(10 * second))
    return line, stream, results


def test_a_days_log_has_under_two_hundred_lines_and_begins_soon(clock):
    _, stream, _ = run(clock, 24 * 3600)
    lines = stream.getvalue().splitlines()
    assert 50 < len(lines) < 200
    assert lines[1].startswith("  0%  150 of 1,000,000 images  ·  10.0 images/s  ·  ")
    assert "\r" not in stream.getvalue()


def test_a_terminal_has_one_line_that_fits(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, stream, _ = run(clock, 100, in_place=True)
    assert "\n" not in stream.getvalue()
    shown = stream.getvalue().split("\r")
    assert all(len(text) < 60 for text in shown)
    assert "▕" in shown[-1]


def test_problems_are_said_once_also_by_a_quiet_one_and_leave_no_rest_of_a_line(clock):
    for quiet in (False, True):
        line, stream, _ = run(clock, 3, in_place=not quiet, quiet=quiet)
        for _ in range(3):
            line.update(snapshot(30, problems=["a GPU is ill"]))
        line.fail(RunError("it broke"))
        said = [text.split("\r")[-1] for text in stream.getvalue().split("\n")]
        assert [text for text in said if text] == ["warning: a GPU is ill", "sdbatch: error: it broke"]


def test_quiet_says_at_the_end_only_what_failed(clock):
    line, stream, results = run(clock, 100, quiet=True)
    line.end(RunReport("out", images=2, ok=2))
    assert stream.getvalue() == results.getvalue() == ""
    line.end(RunReport("out", images=2, ok=1, failed=1, reasons=Counter({"prompt is empty": 1})))
    assert "1 failed: prompt is empty" in results.getvalue()


def test_verbose_names_the_workers(clock):
    _, stream, _ = run(clock, 40, verbose=True)
    assert stream.getvalue().count("worker aaaaaaaa: ") == 3


def test_lost_workers_and_failed_images_are_said(clock):
    line, stream, _ = run(clock, 1)
    clock.now += 60
    line.update(snapshot(100, lost=2, failed=7))
    assert stream.getvalue().splitlines()[-1].endswith("7 failed  ·  2 lost workers")


def screens(columns, command, env):
    """Run a command on a terminal of that width; returns what stood there after each thing that it wrote."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # Ray's workers import what this folder has, such as the stand-in.
    process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    screen = pyte.Screen(columns, 40)
    stream, shown = pyte.ByteStream(screen), []
    while True:
        try:
            written = os.read(keyboard, 4096)
        except OSError:  # Linux's error after the terminal is closed
            break
        stream.feed(written)
        shown.append([line.rstrip() for line in screen.display if line.strip()])
    os.close(keyboard)
    assert process.wait() == 0, shown[-1]
    return shown


@pytest.mark.parametrize("columns", [50, 160])
def test_a_real_terminal_shows_a_line_that_moves_and_in_the_end_only_what_stays(tmp_path, ray_session, columns):
    table = write_table(tmp_path / "prompts.parquet", {"prompt": [f"a red circle {i}" for i in range(64)]})
    options = ("--shard-size", "4", "--actors", "1", "--lanes", "4")
    command = [sys.executable, "-m", "tests.stand_in", "generate", str(table), str(tmp_path / "out"), *options]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color"}
    environment["SDBATCH_STAND_IN"] = '{"step_seconds": 0.2}'
    shown = screens(columns, command, environment)
    bars = [screen for screen in shown if screen and "▏" in screen[-1]]
    assert len({bar[-1] for bar in bars}) >= 3
    assert all("of 64 images" in bar[-1] for bar in bars)
    assert len({len(bar) for bar in bars}) == 1  # it stays where it is
    assert not any("▏" in line for line in shown[-1])
    said = "".join(shown[-1]).replace(" ", "")  # lines wrap, and lose spaces where they do
    assert said.startswith("64imageswithtiny→")
    assert "64of64imagesarein" in said and "theenginesworked" in said
