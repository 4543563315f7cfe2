"""Measures LoRAs per row: a table that names many files, and a pass in which every row has one.

    python benchmarks/adapters.py [--loras 100] [--rows 1000] [--steps 10] [--rank 16] [--rounds 2] …

The first part makes the same rows with `Engine`, in any order, and with diffusers' pipeline, which loads each file
once, for the group of its rows. The second part compares rows with attention-only LoRAs with the same rows without.
All ratios are of CPU seconds, measured in turn: other work on the machine changes walls, not these.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from engine_measure import Diffusers, add_options, in_turn, make_engine, run_engine, uniform_table
from engine_models import model_folder
from random_loras import ATTENTION, lora_file

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from sdbatch.fields import FrozenMapping
from sdbatch.prompts.lora_cells import LoraReader

RANKS = (4, 8, 16)


def named(rows: list[Request], paths: list[Path]) -> list[Request]:
    """The rows, the n-th with the n-th file."""
    reader = LoraReader()
    extras = (FrozenMapping({"lora": str(path)}) for path in paths)
    return [reader.read(replace(row, extra=extra), "") for row, extra in zip(rows, extras, strict=True)]


def cpu_seconds(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each, run in turn."""
    return {name: [cpu for _, cpu in taken] for name, taken in in_turn(contestants, rounds).items()}


def ratios(over: list[float], under: list[float]) -> str:
    """The ratio of each round, and their median."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return f"{statistics.median(each):.2f} ({', '.join(f'{ratio:.2f}' for ratio in each)})"


def many_files(engine: Engine, diffusers: Diffusers, model: Path, arguments: argparse.Namespace) -> None:
    files = [lora_file(model, ATTENTION, rank=RANKS[n % len(RANKS)], seed=n) for n in range(arguments.loras)]
    plain = uniform_table(arguments.rows, sampler="ddim", steps=arguments.steps)
    paths = [files[n % len(files)] for n in range(len(plain))]
    random.Random(0).shuffle(paths)
    rows = named(plain, paths)
    groups = defaultdict(list)
    for row, path in zip(plain, paths, strict=True):
        groups[path].append(row)

    def grouped() -> dict[int, np.ndarray]:
        made = {}
        for path, group in groups.items():
            diffusers.pipeline.load_lora_weights(path)
            made |= diffusers(group)
            diffusers.pipeline.unload_lora_weights()
        return made

    sizes = f"{min(map(len, groups.values()))} to {max(map(len, groups.values()))}"
    print(f"{len(rows)} rows, {len(files)} LoRAs of ranks {RANKS}, groups of {sizes} rows")
    few = [row for row in rows if row.extra["lora"] == rows[0].extra["lora"]]
    diffusers.pipeline.load_lora_weights(paths[0])
    ours, theirs = run_engine(engine, few), diffusers(groups[paths[0]])
    diffusers.pipeline.unload_lora_weights()
    print(f"largest pixel difference {max(int(np.abs(ours[s].astype(int) - theirs[s]).max()) for s in ours)} of 255")
    seconds = cpu_seconds({"Engine": lambda: run_engine(engine, rows), "diffusers": grouped}, arguments.rounds)
    print(f"diffusers ÷ Engine: {ratios(seconds['diffusers'], seconds['Engine'])}")


def one_pass(engine: Engine, model: Path, arguments: argparse.Namespace) -> None:
    plain = uniform_table(2 * arguments.lanes, sampler="ddim", steps=20)
    file = lora_file(model, ATTENTION, rank=arguments.rank, seed=1)
    rows = named(plain, [file] * len(plain))
    for warm_up in (plain, rows):
        run_engine(engine, warm_up[: arguments.lanes])
    contestants = {"plain": lambda: run_engine(engine, plain), "LoRA": lambda: run_engine(engine, rows)}
    seconds = cpu_seconds(contestants, 2 * arguments.rounds)
    print(f"rank {arguments.rank} on attention ÷ plain: {ratios(seconds['LoRA'], seconds['plain'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(rows=1_000, rounds=2)
    parser.add_argument("--loras", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA in the second part")
    arguments = parser.parse_args()
    folder = model_folder(arguments.model)
    engine = make_engine(folder, arguments)
    diffusers = Diffusers(folder, engine, arguments.compile)
    print(f"{engine.describe()}, {torch.get_num_threads()} threads")
    one_pass(engine, folder, arguments)
    many_files(engine, diffusers, folder, arguments)


if __name__ == "__main__":
    main()
