"""Measures a mixed prompt table: `Engine` against diffusers' pipeline, called once for each group of equal settings.

    python benchmarks/mixed.py [--model tiny] [--rows 64] [--lanes 48] [--samplers ddpm] …

Six step counts, five guidance scales, and the eight samplers that DiffusionDB's users chose from: the more settings
a table mixes, the smaller the groups that diffusers can batch, so `--samplers ddpm` is easier. Decoding is included,
loading and compiling are not.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import defaultdict

import numpy as np
import torch
from engine_measure import (
    PROMPTS,
    Diffusers,
    add_options,
    alternate,
    make_engine,
    report_device,
    run_engine,
)
from engine_models import model_folder

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.request import Request

STEPS = (10, 20, 25, 30, 40, 50)
GUIDANCE_SCALES = (1.0, 3.0, 5.0, 7.5, 10.0)
DIFFUSIONDB = "ddim,pndm,euler,euler_a,heun,dpm2,dpm2_a,lms"


def table(rows: int, samplers: list[str]) -> list[Request]:
    """Rows with every setting equally often, in an order determined by a seed."""
    settings = list(itertools.islice(itertools.cycle(itertools.product(STEPS, GUIDANCE_SCALES)), rows))
    shuffle = random.Random(0)
    shuffle.shuffle(settings)
    return [
        Request(
            PROMPTS[seed % len(PROMPTS)],
            seed=seed,
            sampler=shuffle.choice(samplers),
            steps=steps,
            guidance_scale=guidance_scale,
        )
        for seed, (steps, guidance_scale) in enumerate(settings)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    # These rows take some 115 lanes: enough lanes to fill two cores, few enough to be full to the end.
    parser.set_defaults(lanes=48)
    parser.add_argument("--samplers", default=DIFFUSIONDB, help="comma-separated; each row gets one of them")
    arguments = parser.parse_args()
    folder = model_folder(arguments.model)
    engine = make_engine(folder, arguments)
    diffusers = Diffusers(folder, engine, arguments.compile)
    rows = table(arguments.rows, arguments.samplers.split(","))
    groups = defaultdict(list)
    for row in rows:
        groups[row.sampler, row.steps, row.guidance_scale].append(row)

    def grouped() -> dict[int, np.ndarray]:
        return {seed: pixels for group in groups.values() for seed, pixels in diffusers(group).items()}

    print(f"{engine.describe()}\n{len(rows)} rows in {len(groups)} groups, {torch.get_num_threads()} threads")
    ours, theirs = run_engine(engine, rows), grouped()  # also warms both up
    difference = max(int(np.abs(ours[seed].astype(int) - theirs[seed]).max()) for seed in ours)
    seconds = alternate({"Engine": lambda: run_engine(engine, rows), "diffusers": grouped}, arguments.rounds)
    row_steps = sum(engine.family.coefficients(row).calls for row in rows)
    lanes = sum(lane_calls(row, engine.info) for row in rows)
    print(f"largest pixel difference {difference} of 255")
    for name, taken in seconds.items():
        per_step, per_lane = taken / row_steps * 1e3, taken / lanes * 1e3
        print(f"{name:10} {len(rows) / taken:7.2f} images/s, {per_step:.2f} ms per row-step, {per_lane:.2f} per lane")
    print(f"Engine ÷ diffusers: {seconds['diffusers'] / seconds['Engine']:.2f}")
    report_device(engine, rows, seconds["Engine"])


if __name__ == "__main__":
    main()
