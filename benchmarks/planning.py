"""What planning costs: many files, many markers, and a million rows in one row group.

    python benchmarks/planning.py [--files 1000] [--rows-per-file 10000] [--markers 1000000]

No model runs and no picture is made: this is the work of the driver and of the read tasks alone.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.output import finished_shards, marker_name
from sdbatch.plan import make_plan
from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.settings import RunSettings
from sdbatch.shards import cut
from sdbatch.storage import Store

T = TypeVar("T")


def timed(what: str, act: Callable[[], T]) -> T:
    """Run `act`, and print how long it took and how much memory the process has used at most."""
    started = time.monotonic()
    result = act()
    seconds = time.monotonic() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<60} {seconds:8.2f} s   peak memory {megabytes:6.0f} MB", flush=True)
    return result


def write_inputs(folder: Path, files: int, rows: int) -> None:
    table = pa.table({"prompt": [f"a red circle, number {i}" for i in range(rows)], "seed": range(rows)})
    for number in range(files):
        pq.write_table(table, folder / f"{number:05d}.parquet")


def read_one_row_group(path: Path, rows: int) -> int:
    settings = RunSettings()
    (file,) = list_inputs(str(path), {})
    columns = check_table([file], settings)
    ranges = [(s.first_row, s.rows) for s in cut([file], 512)]
    tables = list(read_rows(file, columns, ranges, {}))
    assert sum(table.num_rows for table in tables) == rows
    return len(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows-per-file", type=int, default=10_000)
    parser.add_argument("--markers", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        write_inputs(folder / "in", options.files, options.rows_per_file)
        plan = timed(
            f"plan {options.files * options.rows_per_file:,} rows in {options.files:,} files",
            lambda: make_plan(str(folder / "in"), str(folder / "out"), RunSettings()),
        )
        print(f"  → {len(plan.shards):,} shards")
        (folder / "out").mkdir()
        for number in range(options.markers):
            (folder / "out" / marker_name(number)).write_bytes(b"{}")
        done = timed(
            f"list {options.markers:,} markers once",
            lambda: finished_shards(Store(str(folder / "out")).entries()),
        )
        assert len(done) == options.markers
        rows = 1_000_000
        big = folder / "big.parquet"
        pq.write_table(
            pa.table({"prompt": [f"prompt {i}" for i in range(rows)], "seed": range(rows)}),
            big,
            row_group_size=rows,
        )
        shards = timed(f"cut one row group of {rows:,} rows", lambda: read_one_row_group(big, rows))
        print(f"  → {shards:,} shards")


if __name__ == "__main__":
    main()
