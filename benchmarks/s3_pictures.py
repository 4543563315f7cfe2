"""Measures whether reading pictures from S3 keeps an engine waiting that works at the rate of a GPU.

    python -m benchmarks.s3_pictures [--rows 240] [--rate 10] [--rounds 2]

An S3 server on this machine (SeaweedFS) holds a table and a JPEG for each of its rows, of 512 to 1024 pixels per
side. The pictures are read, decoded and resized as for the real engine. In place of its passes there is a clock: a
pass takes as long as on a GPU of that rate, it begins when it was queued and the pass before has ended, and, as with
the real engine, at most `RUN_AHEAD` passes are queued or running when the host goes on. Compared are the same run
with and without pictures, from an engine's first look at its work to the end of its last pass, and the passes alone.
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
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
import torch
from PIL import Image

from benchmarks.picture_files import blotches
from benchmarks.standin import StandInEngine
from sdbatch.cli import main as sdbatch
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.pictures.picture_encodings import PictureEncodings
from sdbatch.diffusion.pictures.picture_pixels import Pixels
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.sampling import RUN_AHEAD
from sdbatch.diffusion.tasks.task import Need
from sdbatch.run.pipeline import generate
from tests.s3.server import S3Server, running_server

LANES, SIDE = 2, 512  # few lanes: in the engine, too, rows come one after the other


class Shown(PictureEncoder):
    """The preprocessing of a VAE's pictures, and no network."""

    def __init__(self) -> None:
        self._pixels = Pixels(8)

    def pixels(self, need: Need) -> torch.Tensor:
        return self._pixels.image(need, None)

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> None:
        return None


class Gpu(StandInEngine):
    """Starts rows as the engine does, with their pictures, and waits for a device as it does."""

    def __init__(self, job: Any) -> None:
        super().__init__(LANES, 0.0, lambda _: None)
        self._pass_seconds = LANES / float(os.environ["RATE"])
        self._pictures = PictureEncodings({"image": Shown()}, torch.device("cpu"))
        self._times = Path(job.out.name("times"))
        self._started: float | None = None
        self._passes: deque[tuple[float, list[GeneratedImage]]] = deque()  # when each ends, and what it makes

    @property
    def room(self) -> int:
        self._started = self._started or time.monotonic()
        return super().room

    @property
    def idle(self) -> bool:
        return super().idle and not self._passes

    def step(self) -> list[GeneratedImage]:
        rows = [request for _, request in self._waiting]
        for i in range(min(self.lanes, len(rows))):
            following = (need for row in rows[i + 1 :] for need in _needs(row))
            self._pictures.get(_needs(rows[i]), following)
        if rows:
            begins = max([time.monotonic(), *(end for end, _ in self._passes)])
            self._passes.append((begins + self._pass_seconds, super().step()))
        made = []
        while len(self._passes) > (RUN_AHEAD if rows else 0):
            end, images = self._passes.popleft()
            time.sleep(max(0.0, end - time.monotonic()))
            made += images
            self._times.write_text(str(time.monotonic() - self._started))
        return made


def _needs(request: Request) -> list[Need]:
    picture = request.extra.get("image")
    return [] if picture is None else [Need("image", picture, (SIDE, SIDE), covers=True)]


def fill(server: S3Server, rows: int) -> None:
    store, dice = s3fs.S3FileSystem(**server.options), np.random.default_rng(0)
    store.mkdir("pictures")
    source = Image.fromarray(blotches(4))
    for i in range(rows):
        width, height = (int(side) for side in dice.integers(512, 1025, 2))
        file = io.BytesIO()
        source.rotate(i).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        store.pipe_file(f"pictures/{i}.jpg", file.getvalue())
    columns = {"prompt": ["a red circle"] * rows, "seed": range(rows)}
    for name, images in (("plain", {}), ("pictures", {"image": [f"{i}.jpg" for i in range(rows)]})):
        with store.open(f"pictures/{name}.parquet", "wb") as file:
            pq.write_table(pa.table(columns | images), file)


def run(server: S3Server, table: str, out: Path, address: str) -> float:
    """Seconds from the engine's first look at its work to its last step."""
    command = ["generate", f"s3://pictures/{table}.parquet", str(out), "--task", "image-to-image", "--actors", "1"]
    command += ["--height", "64", "--width", "64", "--lanes", str(LANES), "--device", "cpu", "--shard-size", "32"]
    command += ["--storage-options", json.dumps(server.options)]
    program = "from benchmarks import s3_pictures; s3_pictures.command()"
    environment = os.environ | {"RAY_ADDRESS": address}
    subprocess.run([sys.executable, "-c", program, *command], env=environment, check=True, capture_output=True)
    return float((out / "times").read_text())


def command() -> None:
    generate.__kwdefaults__["make_engine"] = Gpu
    sys.exit(sdbatch(sys.argv[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ["RATE"] = str(options.rate)
    bare = options.rows / options.rate
    print(f"{options.rows} rows at {options.rate:g} a second; load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sdb-") as folder, running_server() as server:
        fill(server, options.rows)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": f"{folder}/ray"},
        )
        for turn in range(options.rounds):
            plain, read = (
                run(server, table, Path(folder) / f"{table}{turn}", cluster.address) for table in ("plain", "pictures")
            )
            print(
                f"bare {bare:.1f} s   without pictures {plain:.1f} s ({bare / plain:.3f})   "
                f"with pictures {read:.1f} s ({bare / read:.3f} of bare, {plain / read:.3f} of without)",
                flush=True,
            )
        cluster.shutdown()


if __name__ == "__main__":
    main()
