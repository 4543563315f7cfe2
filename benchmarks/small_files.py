"""Measures the cost of many small files: the same rows as one file and as one file each, whole commands, side by side.

    python benchmarks/small_files.py [--rows 200] [--steps 20] [--rounds 2]
    python benchmarks/small_files.py --plan 10000 50000 100000

The first command makes the pictures with `sdbatch generate`, each time with its own Ray. The second times `sdbatch
plan` for these numbers of files of one row each, and prints the peak memory of its process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BAR = 1.25
COLOURS = ("red", "green", "blue", "yellow")


def prompt(row: int) -> str:
    return f"a {COLOURS[row % len(COLOURS)]} circle"


def write_many(folder: Path, files: int) -> None:
    """Write one Parquet file per row."""
    folder.mkdir()
    contents = []
    for row in range(len(COLOURS)):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"prompt": [prompt(row)], "id": [row]}), sink)
        contents.append(sink.getvalue().to_pybytes())
    for row in range(files):
        (folder / f"{row:06}.parquet").write_bytes(contents[row % len(COLOURS)])


def timed(*arguments: object) -> tuple[float, int]:
    """Seconds of a command, and the peak memory of its process in bytes."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "sdbatch", *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"exit {process.returncode}: {arguments}"
    return time.monotonic() - started, usage.ru_maxrss * 1024


def generate(folder: Path, rows: int, steps: int, rounds: int) -> None:
    write_many(folder / "many", rows)
    pq.write_table(
        pa.table({"prompt": [prompt(row) for row in range(rows)], "id": range(rows)}), folder / "one.parquet"
    )
    tables = {"one": folder / "one.parquet", "many": folder / "many"}
    seconds: dict[str, list[float]] = {name: [] for name in tables}
    for turn in range(rounds):
        for name in (("one", "many"), ("many", "one"))[turn % 2]:  # the load of the machine varies
            spent, _ = timed("generate", tables[name], folder / f"out-{name}-{turn}", "--steps", steps)
            seconds[name].append(spent)
            print(f"{name:5} {spent:7.1f} s", flush=True)
    one, many = (statistics.median(seconds[name]) for name in ("one", "many"))
    print(f"{rows} rows, {steps} steps: one file {one:.1f} s, a file a row {many:.1f} s, ratio {many / one:.2f}")
    print(f"bar {BAR}: {'met' if many <= BAR * one else 'missed'}")


def plan(folder: Path, counts: list[int]) -> None:
    for count in counts:
        write_many(folder / str(count), count)
        seconds, memory = timed("plan", folder / str(count), folder / "out")
        print(f"{count:8,} files  {seconds:6.1f} s  {memory / 1e6:6.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plan", type=int, nargs="+", metavar="FILES")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdb-") as folder:
        if options.plan:
            plan(Path(folder), options.plan)
        else:
            generate(Path(folder), options.rows, options.steps, options.rounds)


if __name__ == "__main__":
    main()
