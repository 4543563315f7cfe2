"""Measures the pipeline's cost over the bare engine: same rows, same number of worker processes, side by side.

    python benchmarks/overhead.py [--rows 1000] [--steps 50] [--workers 2]

The bare engine runs in separate processes that load the model, make their share of the rows and discard the
pixels. `sdbatch generate` reads a Parquet table and writes PNG files, metadata and markers, on a running Ray
cluster. Both are timed as whole commands, and from their first to their last picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BARE = """
import json, sys, time
from sdbatch import Engine, Request
rows, steps, offset = map(int, sys.argv[1:])
engine = Engine("tiny", lanes=16, device="cpu", threads=1)
started = time.monotonic()
requests = (Request("a red circle", seed=offset + i, steps=steps) for i in range(rows))
made = sum(image.error is None for image in engine.generate(requests))
print(json.dumps({"made": made, "seconds": time.monotonic() - started}))
"""


def bare(rows: int, steps: int, workers: int) -> tuple[float, float]:
    """Seconds of the whole command and of sampling alone, for `rows` distributed over `workers` processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    share = rows // workers
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, str(share), str(steps), str(w * share)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for w in range(workers)
    ]
    results = [json.loads(process.communicate()[0]) for process in processes]
    assert sum(result["made"] for result in results) == share * workers
    return time.monotonic() - started, max(result["seconds"] for result in results)


def command(rows: int, steps: int, workers: int, folder: Path, address: str) -> tuple[float, float]:
    """Seconds of the whole `sdbatch generate`, and from its workers' start to the last marker."""
    pq.write_table(pa.table({"prompt": ["a red circle"] * rows, "seed": range(rows)}), folder / "prompts.parquet")
    arguments = ["generate", folder / "prompts.parquet", folder / "out", "--steps", steps]
    arguments += ["--actors", workers, "--lanes", 16, "--device", "cpu"]
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "sdbatch", *map(str, arguments)],
        env=os.environ | {"RAY_ADDRESS": address},
        check=True,
    )
    whole = time.monotonic() - started
    report = json.loads(max((folder / "out" / "__reports").glob("*.json")).read_text())
    assert report["ok"] == rows
    return whole, report["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="sdb-") as folder:
        head = {"num_cpus": options.workers, "include_dashboard": False, "temp_dir": f"{folder}/ray"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ours, ours_inside = command(options.rows, options.steps, options.workers, Path(folder), cluster.address)
        theirs, theirs_inside = bare(options.rows, options.steps, options.workers)
        cluster.shutdown()
    print(f"{options.rows} rows, {options.steps} steps, {options.workers} workers of one thread")
    print(f"whole command     generate {ours:7.1f} s   bare engine {theirs:7.1f} s   ratio {ours / theirs:.3f}")
    print(f"workers at work   generate {ours_inside:7.1f} s   bare engine {theirs_inside:7.1f} s")


if __name__ == "__main__":
    main()
