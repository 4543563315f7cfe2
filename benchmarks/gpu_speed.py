"""The stages of `benchmarks/gpu.py` that measure speed, side by side with diffusers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from engine_measure import (
    Diffusers,
    denoiser_flops,
    matmul_peak,
    run_engine,
    uniform_table,
    waiting_share,
)
from engine_models import model_folder
from gpu_bench import Bench, passes_counted, rate
from mixed import DIFFUSIONDB, table
from random_loras import ATTENTION, KOHYA_DEFAULT, lora_file

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.loading import DTYPES
from sdbatch.diffusion.request import Request

__all__ = ["klein", "lora", "mixed", "sd15", "sdxl"]


def sd15(bench: Bench) -> None:
    """Stable Diffusion 1.5 at 512², 50 steps with guidance."""
    rows = uniform_table(64, sampler="ddpm", steps=50, guidance_scale=7.5)
    uniform(bench, "sd15", rows, lanes=64, batches=(32, 16))


def sdxl(bench: Bench) -> None:
    """Stable Diffusion XL at 1024², 20 steps with guidance."""
    rows = uniform_table(32, sampler="ddpm", steps=20, guidance_scale=7.5)
    uniform(bench, "sdxl", rows, lanes=32, batches=(8, 16))


def klein(bench: Bench) -> None:
    """FLUX.2-klein (4B, distilled) at 1024², 4 steps."""
    rows = uniform_table(16, steps=4, guidance_scale=1.0, sampler="flow_euler")
    uniform(bench, "klein", rows, lanes=None, batches=(1, 2, 4))


def uniform(bench: Bench, model: str, rows: list[Request], *, lanes: int | None, batches: Sequence[int]) -> None:
    """Images per second of one architecture with random weights, and of compiled diffusers at its best batch size.

    Args:
        lanes: None for as many as fit.
    """
    found = bench.found
    if bench.smoke:
        rows, lanes, batches = bench.few(rows), 4, (2,)
    folder = model_folder(bench.scaled(model))
    engine = bench.engine(folder, lanes)
    found.add("engine", engine.describe())
    run_engine(engine, rows[: len(rows) // 2])
    with passes_counted(engine) as counted:
        ours = rate(engine, rows)
    found.add("images per second", ours)
    found.add("passes that found the device dry", f"{counted['dry']} of {counted['passes']}")
    peak = matmul_peak(bench.device, DTYPES[engine.dtype])
    share = denoiser_flops(engine) * lane_calls(rows[0], engine.info) * ours / peak
    found.add("share of the matmul peak", share, f"of {peak / 1e12:.1f} TFLOP/s")
    if not bench.smoke:
        found.add("peak memory, GiB", torch.cuda.max_memory_allocated() / 2**30)
        few = [replace(row, steps=max(4, row.steps // 5)) for row in rows]
        found.add("share of the time that the device waits", waiting_share(engine, few))
        found.add("top kernels", None, top_kernels(engine, few[: len(few) // 2]))
    diffusers = Diffusers(folder, engine, compiled=not bench.smoke)
    diffusers.as_fast_as_it_can()
    engine.close()
    best = 0.0
    for size in batches:
        if not bench.has_time(f"diffusers, batches of {size}, images per second", 150):
            break
        diffusers(rows[:size])
        theirs = size / seconds(lambda size=size: diffusers(rows[:size]))
        best = max(best, theirs)
        found.add(f"diffusers, batches of {size}, images per second", theirs)
    if best:
        found.add("Engine ÷ diffusers at its best", ours / best)


def mixed(bench: Bench) -> None:
    """A table with the mix of settings of DiffusionDB, on the architecture of Stable Diffusion 1.5."""
    rows = table(4 if bench.smoke else 64, DIFFUSIONDB.split(","))
    if bench.smoke:
        rows = [replace(row, steps=2) for row in rows]
    folder = model_folder(bench.scaled("sd15"))
    engine = bench.engine(folder, 4 if bench.smoke else 64)
    bench.found.add("engine", engine.describe())
    run_engine(engine, rows[:4])
    ours = rate(engine, rows)
    bench.found.add("images per second", ours)
    diffusers = Diffusers(folder, engine, compiled=False)  # compiled, each size of a group would cost a minute
    groups: dict[tuple, list[Request]] = {}
    for row in rows:
        groups.setdefault((row.sampler, row.steps, row.guidance_scale), []).append(row)
    theirs = rate_of_groups(bench, groups.values(), diffusers, len(rows))
    bench.found.add("Engine ÷ diffusers", ours / theirs)


def lora(bench: Bench) -> None:
    """Rows with one of eight LoRAs each, on the architecture of Stable Diffusion 1.5, against rows with none."""
    found = bench.found
    count, steps, lanes = (4, 2, 8) if bench.smoke else (64, 20, 64)
    rows = uniform_table(count, sampler="ddim", steps=steps, guidance_scale=7.5)
    folder = model_folder(bench.scaled("sd15"))
    engine = bench.engine(folder, lanes)
    found.add("engine", engine.describe())
    run_engine(engine, rows[: lanes // 4])
    plain = rate(engine, rows)
    found.add("without LoRA, images per second", plain)
    with_lora: dict[str, list[Request]] = {}
    for name, targets in (("attention", ATTENTION), ("kohya's default layers", KOHYA_DEFAULT)):
        files = [lora_file(folder, targets, rank=16, seed=seed) for seed in range(8)]
        with_lora[name] = [replace(row, extra={"lora": f"{files[i % len(files)]}:0.8"}) for i, row in enumerate(rows)]
        run_engine(engine, with_lora[name][: lanes // 4])
        found.add(f"{name}, rank 16: time ÷ without", plain / rate(engine, with_lora[name]))
    try:
        import peft  # noqa: F401  (diffusers needs it for LoRAs)
    except ImportError:
        found.add("diffusers with LoRAs", "not measured: peft is not installed")
        return
    diffusers = Diffusers(folder, engine, compiled=False)
    groups: dict[str, list[Request]] = {}
    for row in with_lora["attention"]:
        groups.setdefault(row.extra["lora"], []).append(row)

    def one_group(group: list[Request]) -> None:
        path, weight = group[0].extra["lora"].rsplit(":", 1)
        diffusers.pipeline.load_lora_weights(path)
        diffusers.pipeline.fuse_lora(lora_scale=float(weight))
        diffusers(group)
        diffusers.pipeline.unfuse_lora()
        diffusers.pipeline.unload_lora_weights()

    ours = rate(engine, with_lora["attention"])
    theirs = rate_of_groups(bench, groups.values(), one_group, len(rows))
    found.add("Engine ÷ diffusers, attention", ours / theirs)


def rate_of_groups(bench: Bench, groups, run, total: int) -> float:
    """Images per second of diffusers, called once a group of equal settings, as long as the stage may last."""
    started, done = time.perf_counter(), 0
    for group in groups:
        if bench.left < 60:
            break
        run(group)
        done += len(group)
    theirs = done / (time.perf_counter() - started)
    bench.found.add("diffusers, once a group, images per second", theirs, f"{done} of {total} rows")
    return theirs


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def top_kernels(engine: Engine, rows: list[Request]) -> str:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run_engine(engine, rows)
        torch.cuda.synchronize()
    return profiler.key_averages().table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=70)
