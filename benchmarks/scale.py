"""Measures the cost of a run besides its engines, as rows, shards and workers grow, with simulated engines and GPUs.

    python -m benchmarks.scale plan [--files 1000] [--rows-per-file 10000] [--markers 1000000]
    python -m benchmarks.scale shards [--counts 1000 2000 4000] [--shard-size 1] [--actors 2]
    python -m benchmarks.scale actors [--counts 1 2 4 8 16] [--seconds 20] [--shards-per-actor 6]

`plan`: many files, many markers, and a million rows in one row group; only the driver and the read tasks.
`shards`: time and memory per shard of the driver, and of the whole run, with engines that return noise at once.
`actors`: the share of time in which the engines slept (worked), by the number of workers. Without loss it is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.standin import StandIn
from sdbatch.output import finished_shards, marker_name
from sdbatch.plan.planning import make_plan
from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.prompts.shards import Cut
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store

GPUS_PER_NODE = 4
T = TypeVar("T")


@contextmanager
def pretended_cluster(gpus: int) -> Iterator[str]:
    """A cluster of nodes with four simulated GPUs each, and a head without GPUs; yields the address."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="sdb-scale-", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(math.ceil(gpus / GPUS_PER_NODE)):
                cluster.add_node(num_cpus=GPUS_PER_NODE, num_gpus=min(gpus, GPUS_PER_NODE))
            yield cluster.address
        finally:
            cluster.shutdown()


def run(address: str, shards: int, rows: int, actors: int, stand_in: StandIn) -> dict[str, Any]:
    """One run in a separate process: its report, and the process's time and memory."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        table = Path(folder, "prompts.parquet")
        pq.write_table(pa.table({"prompt": ["any"] * (shards * rows)}), table, row_group_size=10_000)
        return pool.apply(_drive, (str(table), f"{folder}/out", address, rows, actors, stand_in))


def _drive(table: str, out: str, address: str, rows: int, actors: int, stand_in: StandIn) -> dict[str, Any]:
    from sdbatch.run.pipeline import generate

    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    report = generate(
        table, out, address=address, make_engine=stand_in, shard_size=rows, lanes=max(2, rows), device="cpu",
        actors=(actors, actors), gpus_per_actor=1, cpus_per_actor=0, layout="parquet",
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_SELF)
    return report.to_json() | {
        "wall": time.monotonic() - started,
        "driver_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "driver_kb": after.ru_maxrss,
    }


def measure_planning(files: int, rows_per_file: int, markers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        inputs, out, big = Path(name, "in"), Path(name, "out"), Path(name, "big.parquet")
        inputs.mkdir()
        out.mkdir()
        for number in range(files):
            write_prompts(inputs / f"{number:05d}.parquet", rows_per_file)
        what = f"plan {files * rows_per_file:,} rows in {files:,} files"
        plan = timed(what, lambda: make_plan(str(inputs), str(out), RunSettings()))
        print(f"  → {len(plan.shards):,} shards")
        for number in range(markers):
            (out / marker_name(number)).write_bytes(b"{}")
        done = timed(f"list {markers:,} markers once", lambda: finished_shards(Store(str(out)).entries()))
        assert len(done) == markers
        write_prompts(big, 1_000_000)
        cuts = timed("cut one row group of 1,000,000 rows", lambda: read_in_shards(big, 512))
        print(f"  → {cuts:,} shards")


def timed(what: str, act: Callable[[], T]) -> T:
    """Run `act`, and print its time and the process's peak memory."""
    started = time.monotonic()
    result = act()
    seconds = time.monotonic() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<60} {seconds:8.2f} s   peak memory {megabytes:6.0f} MB", flush=True)
    return result


def write_prompts(path: Path, rows: int) -> None:
    """A table in one row group."""
    table = pa.table({"prompt": [f"a red circle, number {i}" for i in range(rows)], "seed": range(rows)})
    pq.write_table(table, path, row_group_size=rows)


def read_in_shards(path: Path, shard_size: int) -> int:
    """Read a file like the read tasks of a run; returns the number of shards."""
    (file,) = list_inputs(str(path), {})
    columns = check_table([file], RunSettings())
    ranges = [(shard.first_row, shard.rows) for shard in Cut(shard_size, (file.rows,))]
    return sum(1 for _ in read_rows(file, columns, ranges, {}))


def measure_actors(counts: list[int], seconds: float, shards_per_actor: int) -> None:
    print("workers  share of their time worked  shards/h a worker")
    for count in counts:
        with pretended_cluster(count) as address:
            result = run(address, count * shards_per_actor, 16, count, StandIn(step_seconds=seconds))
        share = result["totals"]["model_seconds"] / result["totals"]["seconds"]
        print(f"{count:7}  {share:26.1%}  {3600 * share / seconds:17.1f}", flush=True)


def measure_shards(counts: list[int], shard_size: int, actors: int) -> None:
    print("shards  wall ms/shard  driver CPU ms/shard  rows/s  driver peak MB  KB/shard over the run before")
    with pretended_cluster(actors) as address:
        run(address, 20, shard_size, actors, StandIn(step_seconds=0))
        previous: tuple[int, float] | None = None
        for count in counts:
            result = run(address, count, shard_size, actors, StandIn(step_seconds=0))
            seconds, peak = result["seconds"], result["driver_kb"]
            grown = "" if previous is None else f"{(peak - previous[1]) / (count - previous[0]):.1f}"
            previous = count, peak
            print(
                f"{count:6}  {1000 * seconds / count:13.1f}  {1000 * result['driver_cpu'] / count:19.1f}  "
                f"{count * shard_size / seconds:6.0f}  {peak / 1024:14.0f}  {grown:>29}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    plan = kinds.add_parser("plan")
    plan.add_argument("--files", type=int, default=1000)
    plan.add_argument("--rows-per-file", type=int, default=10_000)
    plan.add_argument("--markers", type=int, default=1_000_000)
    actors = kinds.add_parser("actors")
    actors.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    actors.add_argument("--seconds", type=float, default=20.0, help="a shard")
    actors.add_argument("--shards-per-actor", type=int, default=6)
    shards = kinds.add_parser("shards")
    shards.add_argument("--counts", type=int, nargs="+", default=[1000, 2000, 4000])
    shards.add_argument("--shard-size", type=int, default=1, help="rows a shard")
    shards.add_argument("--actors", type=int, default=2)
    options = vars(parser.parse_args())
    print(json.dumps({"python": sys.version.split()[0], **options}))
    measures = {"plan": measure_planning, "actors": measure_actors, "shards": measure_shards}
    measures[options.pop("kind")](**options)


if __name__ == "__main__":
    main()
