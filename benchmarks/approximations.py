"""Measures what each approximation saves, and how far its pictures are from the exact ones.

    python benchmarks/approximations.py [--model tiny] [--rows 64] [--stops 0.75 0.5] [--deep-cache 2 3] …

`--guidance-stop`: guidance up to a share of the calls. `--deep-cache`: a UNet's inner layers, or a transformer's blocks
after the first, only on every N-th call. `--quantization`: its weights in eight bits, and with fp8 its linear layers'
products. For `tiny`, with scenes that it was never trained on, a reader of its pictures reports the share of them that
follow their prompts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from engine_measure import add_options, alternate, make_engine, run_engine, uniform_table
from engine_models import model_folder

from sdbatch.diffusion.accelerate.quantization import QUANTIZERS
from sdbatch.diffusion.engine import Engine
from training.tiny.judge import describe, questions, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, help="height and width in pixels; default: the model's own")
    parser.add_argument("--stops", type=float, nargs="*", default=[0.75, 0.5, 0.25])
    parser.add_argument("--deep-cache", type=int, nargs="*", default=[2, 3, 5])
    arguments = parser.parse_args()
    folder = model_folder(arguments.model)
    size = {"height": arguments.size, "width": arguments.size} if arguments.size else {}
    rows = uniform_table(arguments.rows, sampler=arguments.sampler, steps=arguments.steps, **size)
    asked = questions(len(rows)) if arguments.model == "tiny" else []
    for number, (_, prompt) in enumerate(asked):
        rows[number] = replace(rows[number], prompt=prompt)
    exact = make_engine(folder, arguments)
    runs = {"exact": (exact, rows)}
    for stop in arguments.stops:
        runs[f"guidance-stop {stop:g}"] = exact, [replace(row, guidance_stop=stop) for row in rows]
    for interval in arguments.deep_cache:
        runs[f"deep-cache {interval}"] = make_engine(folder, arguments, deep_cache=interval), rows
    for quantization in QUANTIZERS:
        runs[f"quantization {quantization}"] = make_engine(folder, arguments, quantization=quantization), rows
    pictures = {name: run_engine(*run) for name, run in runs.items()}
    seconds = alternate({name: lambda run=run: run_engine(*run) for name, run in runs.items()}, arguments.rounds)
    print(f"{exact.describe()}\ndifferences of 255, over all pixels of {len(rows)} pictures:")
    for name, taken in seconds.items():
        differences = [np.abs(pictures[name][seed].astype(int) - pictures["exact"][seed]) for seed in pictures[name]]
        mean, most = np.mean(differences), np.percentile(differences, 99)
        print(
            f"{name:18} {len(rows) / taken:6.2f} images/s, {seconds['exact'] / taken:.2f} times; "
            f"mean difference {mean:.1f}, 99% below {most:.0f}; denoiser {denoiser_megabytes(runs[name][0]):.1f} MB"
        )
        if asked:
            shown = scores(asked, [pictures[name][seed] for seed in range(len(rows))])
            print(f"    right, {describe(shown)}")


def denoiser_megabytes(engine: Engine) -> float:
    denoiser = engine.family.denoiser
    return sum(tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers())) / 1e6


if __name__ == "__main__":
    main()
