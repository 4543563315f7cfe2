"""The stages of `benchmarks/gpu.py` that compare `--compile blocks` with `--compile on`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from engine_measure import run_engine, uniform_table
from engine_models import model_folder
from gpu_bench import Bench, rate

from sdbatch.diffusion.request import Request

__all__ = ["BLOCKS_STAGES"]


def against_whole_networks(bench: Bench, model: str, rows: list[Request], lanes: int | None) -> None:
    """Seconds until an engine has started, with nothing compiled before, and images per second.

    Args:
        lanes: None for as many as fit.
    """
    found = bench.found
    if bench.smoke:
        rows, lanes = bench.few(rows), 4
    folder = model_folder(bench.scaled(model))
    starts, rates = {}, {}
    for compile in ("off", "blocks", "on"):
        torch._dynamo.reset()
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            started = time.perf_counter()
            engine = bench.engine(folder, lanes, compile)
            starts[compile] = time.perf_counter() - started
            lanes = engine.lanes
            found.add(f"{compile}, seconds until the engine has started", starts[compile])
            run_engine(engine, rows[: len(rows) // 2])
            rates[compile] = rate(engine, rows)
            found.add(f"{compile}, images per second", rates[compile])
            found.add("engine", engine.describe())
            engine.close()
    found.add("compiling: blocks ÷ whole networks", (starts["blocks"] - starts["off"]) / (starts["on"] - starts["off"]))
    found.add("images per second: blocks ÷ whole networks", rates["blocks"] / rates["on"])


BLOCKS_STAGES: dict[str, Callable[[Bench], None]] = {
    f"blocks-{model}": partial(against_whole_networks, model=model, rows=rows, lanes=lanes)
    for model, rows, lanes in (
        ("sd15", uniform_table(64, sampler="ddpm", steps=10, guidance_scale=7.5), 64),
        ("klein", uniform_table(16, steps=4, guidance_scale=1.0, sampler="flow_euler"), None),
    )
}
