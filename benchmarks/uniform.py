"""Measures a uniform prompt table: `Engine` against diffusers' pipeline at its best batch size.

    python benchmarks/uniform.py [--model tiny] [--rows 64] [--steps 20] …

One sampler, step count and guidance scale: what diffusers is made for. Decoding is included, loading and
compiling are not.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from engine_measure import Diffusers, add_options, alternate, make_engine, report_device, run_engine, uniform_table
from engine_models import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--batch-sizes", default="4,8,16,32", help="rows a call of the pipeline")
    arguments = parser.parse_args()
    folder = model_folder(arguments.model)
    engine = make_engine(folder, arguments)
    diffusers = Diffusers(folder, engine, arguments.compile)
    rows = uniform_table(
        arguments.rows, sampler=arguments.sampler, steps=arguments.steps, guidance_scale=arguments.guidance_scale
    )

    def batched(size: int) -> dict[int, np.ndarray]:
        pictures = {}
        for start in range(0, len(rows), size):
            pictures |= diffusers(rows[start : start + size])
        return pictures

    sizes = [size for size in map(int, arguments.batch_sizes.split(",")) if size <= len(rows)]
    print(f"{engine.describe()}\n{len(rows)} rows, {torch.get_num_threads()} threads")
    ours = run_engine(engine, rows)
    for size in sizes:
        theirs = batched(size)  # also warms up each size
    difference = max(int(np.abs(ours[seed].astype(int) - theirs[seed]).max()) for seed in ours)
    contestants = {"Engine": lambda: run_engine(engine, rows)}
    contestants |= {f"diffusers, batches of {size}": lambda size=size: batched(size) for size in sizes}
    seconds = alternate(contestants, arguments.rounds)
    print(f"largest pixel difference {difference} of 255")
    for name, taken in seconds.items():
        print(f"{name:24} {len(rows) / taken:7.2f} images/s")
    best = min(taken for name, taken in seconds.items() if name != "Engine")
    print(f"Engine ÷ diffusers at its best batch size: {best / seconds['Engine']:.2f}")
    report_device(engine, rows, seconds["Engine"])


if __name__ == "__main__":
    main()
