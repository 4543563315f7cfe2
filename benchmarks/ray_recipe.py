"""Measures the usual recipe, Ray Data with one diffusers pipeline per actor, against `sdbatch generate`.

    python benchmarks/ray_recipe.py [--model tiny] [--rows 256] [--uniform] [--batch-sizes 8,16,32] …

Both are timed as whole commands. The recipe gets every advantage: its table is sorted by settings, so that most
batches have one kind of row, and the best of several batch sizes counts. Both read Parquet and write PNG bytes and
metadata, with the same workers and threads, on a running Ray cluster. The recipe's result can't be resumed and does
not report failures.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from engine_measure import uniform_table
from engine_models import model_folder
from mixed import table
from PIL import Image

from sdbatch import open as open_output
from sdbatch.diffusion.request import Request

SETTINGS = ("sampler", "steps", "guidance_scale")
COLUMNS = ("prompt", "seed", *SETTINGS)


class Pipeline:
    """The usual actor: a pipeline in `__init__`, a batch in `__call__`, with one call for each kind of row in it."""

    def __init__(self, folder: str, threads: int, device: str) -> None:
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging

        torch.set_num_threads(threads)
        logging.disable_progress_bar()
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        images: list[bytes] = []
        for settings, places in groupby(
            range(len(batch["prompt"])), lambda i: tuple(batch[name][i] for name in SETTINGS)
        ):
            rows = list(places)
            images += [
                self._png(image)
                for image in self._make([str(batch["prompt"][i]) for i in rows], batch["seed"][rows], *settings)
            ]
        return batch | {"image": images}

    def _make(self, prompts: list[str], seeds: np.ndarray, sampler: str, steps: int, guidance_scale: float) -> list:
        from diffusers import DDIMScheduler, DDPMScheduler

        scheduler = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[sampler]
        self.pipeline.scheduler = scheduler.from_config(self.pipeline.scheduler.config, clip_sample=False)
        return self.pipeline(
            prompts,
            num_inference_steps=int(steps),
            guidance_scale=float(guidance_scale),
            generator=[torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds],
        ).images

    @staticmethod
    def _png(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()


def recipe(prompts: str, out: str, folder: str, address: str, batch_size: int, options: argparse.Namespace) -> None:
    """Run the recipe in a separate process, like `sdbatch generate`."""
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = 1 if options.device == "cuda" else 0
    rows = ray.data.read_parquet(prompts, override_num_blocks=2 * options.workers)
    made = rows.map_batches(
        Pipeline,
        fn_constructor_args=(folder, options.threads, options.device),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_gpus=gpus or None,
        num_cpus=0 if gpus else 1,
    )
    made.write_parquet(out)


def write_tables(rows: list[Request], folder: Path) -> None:
    """Write the original table, and one sorted by settings, with the longest rows first."""
    ordered = sorted(rows, key=lambda row: [getattr(row, name) for name in SETTINGS], reverse=True)
    for name, some in (("table", rows), ("sorted", ordered)):
        columns = {column: [getattr(row, column) for row in some] for column in COLUMNS}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def timed(command: list[str], environment: dict[str, str]) -> float:
    started = time.monotonic()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="tiny, sd15, sd21, sdxl (random weights) or a folder")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--uniform", action="store_true", help="ddpm, 20 steps, guidance 7.5 throughout")
    parser.add_argument("--batch-sizes", default="8,16,32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker, on a CPU")
    parser.add_argument("--lanes", type=int, default=32, help="of each of sdbatch's workers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)  # one run, in a process started by main
    options = parser.parse_args()
    if options.recipe:
        recipe(**json.loads(options.recipe), options=options)
        return
    from ray.cluster_utils import Cluster

    rows = uniform_table(options.rows, steps=20) if options.uniform else table(options.rows, ["ddpm"])
    model = str(model_folder(options.model))
    with tempfile.TemporaryDirectory(prefix="sdb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_tables(rows, folder)
        # One more than there are workers: the recipe's read and write tasks need a CPU, and would wait forever.
        head = {"num_cpus": options.workers + 1, "include_dashboard": False, "temp_dir": f"{name}/ray"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        generate = [sys.executable, "-m", "sdbatch", "generate", folder / "table.parquet", folder / "ours"]
        generate += ["--model", model, "--actors", options.workers, "--lanes", options.lanes]
        generate += ["--device", options.device, "--cpus-per-actor", options.threads]
        ours = timed(list(map(str, generate)), environment)
        print(f"sdbatch generate           {ours:7.1f} s  {len(rows) / ours:6.2f} images/s", flush=True)
        theirs = {}
        for size in map(int, options.batch_sizes.split(",")):
            out = str(folder / f"recipe-{size}")
            job = {"prompts": f"{name}/sorted.parquet", "out": out, "folder": model, "address": cluster.address}
            arguments = [sys.executable, __file__, "--recipe", json.dumps(job | {"batch_size": size})]
            arguments += [
                "--workers",
                str(options.workers),
                "--threads",
                str(options.threads),
                "--device",
                options.device,
            ]
            theirs[size] = timed(arguments, environment)
            print(
                f"recipe, batches of {size:<7} {theirs[size]:7.1f} s  {len(rows) / theirs[size]:6.2f} images/s",
                flush=True,
            )
        best = min(theirs, key=theirs.__getitem__)
        differences = compare(folder / "ours", folder / f"recipe-{best}")
        cluster.shutdown()
    far = sum(difference > 2 for difference in differences)
    print(f"pictures with a pixel off by more than 2 of 255: {far} of {len(rows)} (by {max(differences)} at most)")
    print(f"sdbatch ÷ recipe at its best batch size: {theirs[best] / ours:.2f}")


def compare(ours: Path, theirs: Path) -> list[int]:
    """The largest difference of any pixel value between the two results, for each picture."""
    made = pq.read_table(theirs, columns=["seed", "image"]).to_pylist()
    pictures = {row["seed"]: np.asarray(Image.open(io.BytesIO(row["image"]))).astype(int) for row in made}
    own = {row["seed"]: np.asarray(row["image"]).astype(int) for row in open_output(str(ours))}
    assert own.keys() == pictures.keys()
    return [int(np.abs(own[seed] - pictures[seed]).max()) for seed in own]


if __name__ == "__main__":
    main()
