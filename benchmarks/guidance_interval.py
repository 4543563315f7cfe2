"""What limited-interval guidance saves, and how far its pictures are from those with guidance throughout.

    python benchmarks/guidance_interval.py [--model tiny] [--rows 64] [--stops 0.75 0.5 0.25] …

Guidance is on from the first call of the model to a share of them; after that a row takes one lane instead of two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from engine_measure import add_options, alternate, make_engine, run_engine, uniform_table
from engine_models import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--stops", type=float, nargs="+", default=[0.75, 0.5, 0.25])
    arguments = parser.parse_args()
    engine = make_engine(model_folder(arguments.model), arguments)
    rows = uniform_table(arguments.rows, sampler=arguments.sampler, steps=arguments.steps)
    tables = {stop: [replace(row, guidance_stop=stop) for row in rows] for stop in (1.0, *arguments.stops)}
    pictures = {stop: run_engine(engine, table) for stop, table in tables.items()}
    contestants = {f"stop {stop:g}": lambda table=table: run_engine(engine, table) for stop, table in tables.items()}
    seconds = alternate(contestants, arguments.rounds)
    print(f"{engine.describe()}\nof 255, over all pixels of {len(rows)} pictures:")
    for stop, taken in zip(tables, seconds.values(), strict=True):
        differences = np.concatenate(
            [np.abs(pictures[stop][s].astype(int) - pictures[1.0][s]).ravel() for s in pictures[stop]]
        )
        speed, gain = len(rows) / taken, seconds["stop 1"] / taken
        mean, most = differences.mean(), np.percentile(differences, 99)
        print(
            f"stop {stop:<5g} {speed:6.2f} images/s, {gain:.2f} times; mean difference {mean:.1f}, 99% below {most:.0f}"
        )


if __name__ == "__main__":
    main()
