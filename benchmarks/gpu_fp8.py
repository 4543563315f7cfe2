"""The stages of `benchmarks/gpu.py` that compare `--quantization fp8` with whole weights, at the same lanes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from engine_measure import run_engine, uniform_table
from engine_models import model_folder
from gpu_bench import Bench

from sdbatch.diffusion.request import Request
from sdbatch.errors import UsageError

__all__ = ["FP8_STAGES"]


def against_whole_weights(bench: Bench, model: str, rows: list[Request], lanes: int | None) -> None:
    """Speed, memory and pictures of one architecture with random weights, and whether a row's bytes depend on others.

    Args:
        lanes: None for as many as fit with whole weights.
    """
    found = bench.found
    if bench.smoke:
        rows, lanes = bench.few(rows), 4
    folder = model_folder(bench.scaled(model))
    rates, pictures = {}, {}
    for quantization in ("none", "fp8"):
        if not bench.smoke:
            torch.cuda.reset_peak_memory_stats()
        try:
            engine = bench.engine(folder, lanes, quantization=quantization)
        except UsageError as error:
            found.add(quantization, f"not measured: {error}")
            return
        lanes = engine.lanes
        found.add("engine", engine.describe())
        run_engine(engine, rows[: len(rows) // 2])
        started = time.perf_counter()
        pictures[quantization] = run_engine(engine, rows)
        rates[quantization] = len(rows) / (time.perf_counter() - started)
        found.add(f"{quantization}, images per second", rates[quantization])
        alone = run_engine(engine, rows[-1:])[rows[-1].seed]
        found.add(f"{quantization}, same bytes alone", np.array_equal(alone, pictures[quantization][rows[-1].seed]))
        if not bench.smoke:
            found.add(f"{quantization}, peak memory, GiB", torch.cuda.max_memory_allocated() / 2**30)
        engine.close()
    found.add("fp8 ÷ whole weights, images per second", rates["fp8"] / rates["none"])
    differences = [np.abs(pictures["fp8"][row.seed].astype(int) - pictures["none"][row.seed]).mean() for row in rows]
    found.add("mean difference of the pictures, of 255 (random weights)", float(np.mean(differences)))


FP8_STAGES: dict[str, Callable[[Bench], None]] = {
    f"fp8-{model}": partial(against_whole_weights, model=model, rows=rows, lanes=lanes)
    for model, rows, lanes in (
        ("sd15", uniform_table(64, sampler="ddpm", steps=20, guidance_scale=7.5), 64),
        ("sdxl", uniform_table(32, sampler="ddpm", steps=10, guidance_scale=7.5), 32),
        ("klein", uniform_table(16, steps=4, guidance_scale=1.0, sampler="flow_euler"), None),
    )
}
