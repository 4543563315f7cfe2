"""Measures resident memory after 500 and after 5,000 images: nothing may grow with the rows.

python benchmarks/engine_memory.py [--model tiny] [--rows 5000]
"""

from __future__ import annotations

import argparse
from itertools import islice

import psutil
from engine_models import model_folder

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request


def resident() -> float:
    """Resident memory in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--early", type=int, default=500)
    arguments = parser.parse_args()
    engine = Engine(model_folder(arguments.model))
    # Different prompts, step counts and samplers: caches fill up as they would on a real table.
    samplers = ("ddim", "euler_a", "dpmpp_2m", "ddpm")
    rows = (
        Request(f"picture number {i}", seed=i, sampler=samplers[i % 4], steps=1 + i % 3, guidance_scale=1.0)
        for i in range(arguments.rows)
    )
    images = engine.generate(rows)
    made = sum(1 for _ in islice(images, arguments.early))
    early = resident()
    made += sum(1 for _ in images)
    late = resident()
    print(f"after {arguments.early} images {early:.0f} MiB, after {made} {late:.0f} MiB: {late / early:.3f}")


if __name__ == "__main__":
    main()
