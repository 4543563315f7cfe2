"""What a run costs beside its engines, as workers and shards grow: with engines that sleep, on pretended GPUs.

    python -m benchmarks.cluster_scale actors [--counts 1 2 4 8 16] [--seconds 20] [--shards-per-actor 6]
    python -m benchmarks.cluster_scale shards [--counts 1000 2000 4000] [--actors 2]

`actors`: the share of their time in which the engines slept (worked), by the number of workers. Without loss it is 1.
`shards`: time and memory that a shard costs the driver, and the whole run, with shards of one row that take no time.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.standin import StandIn

GPUS_A_NODE = 4


@contextmanager
def pretended_cluster(gpus: int) -> Iterator[str]:
    """Nodes of four GPUs that are not there, and a head without; yields the address."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="sdb-scale-", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(math.ceil(gpus / GPUS_A_NODE)):
                cluster.add_node(num_cpus=GPUS_A_NODE, num_gpus=min(gpus, GPUS_A_NODE))
            yield cluster.address
        finally:
            cluster.shutdown()


def run(address: str, shards: int, rows: int, actors: int, stand_in: StandIn) -> dict[str, Any]:
    """One run in a process of its own: its report, and what the process took."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        table = Path(folder, "prompts.parquet")
        pq.write_table(pa.table({"prompt": ["any"] * (shards * rows)}), table, row_group_size=10_000)
        return pool.apply(_drive, (str(table), f"{folder}/out", address, rows, actors, stand_in))


def _drive(table: str, out: str, address: str, rows: int, actors: int, stand_in: StandIn) -> dict[str, Any]:
    from sdbatch.pipeline import generate

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


def measure_actors(counts: list[int], seconds: float, shards_per_actor: int) -> None:
    print("workers  share of their time worked  shards/h a worker")
    for count in counts:
        with pretended_cluster(count) as address:
            result = run(address, count * shards_per_actor, 16, count, StandIn(step_seconds=seconds))
        share = result["totals"]["model_seconds"] / result["totals"]["seconds"]
        print(f"{count:7}  {share:26.1%}  {3600 * share / seconds:17.1f}", flush=True)


def measure_shards(counts: list[int], actors: int) -> None:
    print("shards  wall ms/shard  driver CPU ms/shard  driver peak MB  KB/shard over the run before")
    with pretended_cluster(actors) as address:
        run(address, 20, 1, actors, StandIn(step_seconds=0))
        previous: tuple[int, float] | None = None
        for count in counts:
            result = run(address, count, 1, actors, StandIn(step_seconds=0))
            peak = result["driver_kb"]
            grown = "" if previous is None else f"{(peak - previous[1]) / (count - previous[0]):.1f}"
            previous = count, peak
            print(
                f"{count:6}  {1000 * result['seconds'] / count:13.1f}  "
                f"{1000 * result['driver_cpu'] / count:19.1f}  {peak / 1024:14.0f}  {grown:>29}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    actors = kinds.add_parser("actors")
    actors.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    actors.add_argument("--seconds", type=float, default=20.0, help="a shard")
    actors.add_argument("--shards-per-actor", type=int, default=6)
    shards = kinds.add_parser("shards")
    shards.add_argument("--counts", type=int, nargs="+", default=[1000, 2000, 4000])
    shards.add_argument("--actors", type=int, default=2)
    options = vars(parser.parse_args())
    print(json.dumps({"python": sys.version.split()[0], **options}))
    {"actors": measure_actors, "shards": measure_shards}[options.pop("kind")](**options)


if __name__ == "__main__":
    main()
