"""Checks sdbatch on a GPU: correctness, then speed, in stages of under nine minutes each.

    python benchmarks/gpu.py check|sd15|sdxl|mixed [--out gpu-results]     on a machine with a CUDA device
    python benchmarks/gpu.py report [--out gpu-results]                    the section of RESULTS.md, on stdout
    python benchmarks/gpu.py --smoke                                       every stage on a CPU, with `tiny`

Needs torch, diffusers, transformers, scipy, pyarrow, pandas and pytest; neither Ray nor model weights. Each figure is
printed and stored as soon as it is known, the most valuable first.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from engine_measure import (  # noqa: E402
    Diffusers,
    matmul_peak,
    run_engine,
    unet_flops,
    uniform_table,
    waiting_share,
)
from engine_models import model_folder  # noqa: E402
from gpu_report import Findings, markdown  # noqa: E402
from mixed import DIFFUSIONDB, table  # noqa: E402

from sdbatch.diffusion.calls import lane_calls  # noqa: E402
from sdbatch.diffusion.embeddings import Text  # noqa: E402
from sdbatch.diffusion.engine import Engine  # noqa: E402
from sdbatch.diffusion.models.loading import DTYPES  # noqa: E402
from sdbatch.diffusion.request import Request  # noqa: E402

STAGES = ("check", "sd15", "sdxl", "mixed")
LIMIT_SECONDS = 520
# Fractions of the device's memory to which `tiny` is limited, so that memory runs out.
SCARCE = (0.012, 0.008, 0.006, 0.005, 0.004)
ROWS = [Request("a red circle", seed=i, steps=2 + i % 3, height=s, width=s) for i, s in enumerate((64, 128, 96) * 4)]


class Bench:
    """A running stage: its device, its remaining time, and its findings."""

    def __init__(self, stage: str, out: Path, smoke: bool):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"
        self.found = Findings(stage, out, smoke)
        self._started = time.monotonic()

    @property
    def left(self) -> float:
        return LIMIT_SECONDS - (time.monotonic() - self._started)

    def engine(self, model: str | Path, lanes: int | None, **settings) -> Engine:
        compile = "off" if self.smoke else "on"
        return Engine(model, lanes=lanes, device=self.device, compile=compile, **settings)


def pictures(engine: Engine, rows: list[Request]) -> dict[int, bytes]:
    return {seed: pixels.tobytes() for seed, pixels in run_engine(engine, rows).items()}


def digest(smoke: bool) -> None:
    """Print a hash of pictures: run in a fresh process, whose bits must not depend on timings."""
    engine = Bench("digest", Path(tempfile.mkdtemp()), smoke).engine("tiny", 8)
    made = pictures(engine, [Request("a red circle", seed=i, steps=3, sampler="ddim") for i in range(8)])
    print(hashlib.sha256(b"".join(made[seed] for seed in sorted(made))).hexdigest()[:16])


def check(bench: Bench) -> None:
    """Bits: across processes, threads, lanes and shortages of memory; then the project's own tests."""
    found = bench.found
    engine = bench.engine("tiny", 8)
    found.add("engine", engine.describe())
    hashes = bits_of_three_processes(bench)
    found.add("three processes, same bits", len(set(hashes)) == 1, hashes)
    here, there = pictures(engine, ROWS), in_a_thread(lambda: pictures(engine, ROWS))
    found.add("another thread, same bits", here == there)
    with torch.inference_mode():
        family = engine.family
        texts, reversed_texts = (family.encode([Text("prompt", x) for x in s]) for s in ("abcdefgh", "hgfedcba"))
        found.add("texts, same bits in any place", all(torch.equal(texts[n], reversed_texts[n].flip(0)) for n in texts))
        for size in (64, 96, 128):
            latents = torch.randn(4, *family.latent_shape(size, size), device=bench.device)
            same = torch.equal(family.decode(latents), family.decode(latents.flip(0)).flip(0))
            found.add(f"decode of {size}², same bits in any place", same)
    if not bench.smoke:
        run_short_of_memory(bench, engine)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    command += ["--collect-only"] if bench.smoke else []
    try:
        tests = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(30, bench.left))
        found.add("tests/gpu", tests.stdout.strip().splitlines()[-1], tests.stdout[-4000:])
    except subprocess.TimeoutExpired:
        found.add("tests/gpu", "did not end in time")


def bits_of_three_processes(bench: Bench) -> list[str]:
    """Hashes from processes with separate compilation caches, the last one with Inductor's timings inverted."""
    running = []
    for extra in ({}, {}, {"TORCHINDUCTOR_DISTORT_BENCHMARKING_RESULT": "inverse"}):
        cache = tempfile.mkdtemp()
        own = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        command = [sys.executable, __file__, "digest", *(["--smoke"] if bench.smoke else [])]
        running.append(subprocess.Popen(command, env=os.environ | own | extra, stdout=subprocess.PIPE, text=True))
    return [process.communicate()[0].strip() for process in running]


def in_a_thread(work):
    made = []
    thread = threading.Thread(target=lambda: made.append(work()))
    thread.start()
    thread.join()
    return made[0]


def run_short_of_memory(bench: Bench, engine: Engine) -> None:
    """Run with too little memory: record the errors by name, and whether any of them ends the engine."""
    for fraction in SCARCE:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(fraction)
        try:
            failed = [image.error for image in engine.generate(ROWS) if image.error]
            outcome = f"{engine.lanes} lanes, {len(failed)} rows failed"
        except Exception as error:  # the kind of error is the finding
            failed, outcome = [str(error)], f"the engine ended: {type(error).__name__}"
        bench.found.add(f"memory cut to {fraction:.1%}", outcome, failed[:1])
    torch.cuda.set_per_process_memory_fraction(1.0)


def uniform(bench: Bench, model: str, *, steps: int, lanes: int, batches: tuple[int, ...]) -> None:
    """Images per second of one architecture with random weights, and of compiled diffusers at its best batch size."""
    found = bench.found
    folder = model_folder("tiny" if bench.smoke else model)
    steps, lanes, batches = (2, 8, (4,)) if bench.smoke else (steps, lanes, batches)
    engine = bench.engine(folder, lanes)
    found.add("engine", engine.describe())
    rows = uniform_table(lanes, sampler="ddpm", steps=steps, guidance_scale=7.5)
    run_engine(engine, rows[: lanes // 2])
    ours = rate(engine, rows)
    found.add("images a second", ours)
    peak = matmul_peak(bench.device, DTYPES[engine.dtype])
    share = unet_flops(engine) * lane_calls(rows[0], engine.info) * ours / peak
    found.add("share of the matmul peak", share, f"of {peak / 1e12:.1f} TFLOP/s")
    if not bench.smoke:
        found.add("peak memory, GiB", torch.cuda.max_memory_allocated() / 2**30)
        few = uniform_table(lanes, sampler="ddpm", steps=max(4, steps // 5), guidance_scale=7.5)
        found.add("share of the time that the device waits", waiting_share(engine, few))
        found.add("top kernels", None, top_kernels(engine, few[: lanes // 2]))
    diffusers = Diffusers(folder, engine, compiled=not bench.smoke)
    diffusers.pipeline.unet.to(memory_format=torch.channels_last)
    diffusers.pipeline.vae.enable_slicing()
    engine.close()
    best = 0.0
    for size in batches:
        if bench.left < 150:
            break
        diffusers(rows[:size])
        started = time.perf_counter()
        diffusers(rows[:size])
        theirs = size / (time.perf_counter() - started)
        best = max(best, theirs)
        found.add(f"diffusers, batches of {size}, images a second", theirs)
    if best:
        found.add("Engine ÷ diffusers at its best", ours / best)


def mixed(bench: Bench) -> None:
    """A table with the mix of settings of DiffusionDB, on the architecture of Stable Diffusion 1.5."""
    folder = model_folder("tiny" if bench.smoke else "sd15")
    rows = table(8 if bench.smoke else 64, DIFFUSIONDB.split(","))
    if bench.smoke:
        rows = [replace(row, steps=4) for row in rows]
    engine = bench.engine(folder, 8 if bench.smoke else 64)
    bench.found.add("engine", engine.describe())
    run_engine(engine, rows[:4])
    ours = rate(engine, rows)
    bench.found.add("images a second", ours)
    diffusers = Diffusers(folder, engine, compiled=False)  # compiled, each size of a group would cost a minute
    groups: dict[tuple, list[Request]] = {}
    for row in rows:
        groups.setdefault((row.sampler, row.steps, row.guidance_scale), []).append(row)
    started, done = time.perf_counter(), 0
    for group in groups.values():
        if bench.left < 60:
            break
        diffusers(group)
        done += len(group)
    theirs = done / (time.perf_counter() - started)
    bench.found.add("diffusers, once a group, images a second", theirs, f"{done} of {len(rows)} rows")
    bench.found.add("Engine ÷ diffusers", ours / theirs)


def rate(engine: Engine, rows: list[Request]) -> float:
    started = time.perf_counter()
    run_engine(engine, rows)
    return len(rows) / (time.perf_counter() - started)


def top_kernels(engine: Engine, rows: list[Request]) -> str:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run_engine(engine, rows)
        torch.cuda.synchronize()
    return profiler.key_averages().table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=70)


def run_stage(stage: str, out: Path, smoke: bool) -> None:
    bench = Bench(stage, out, smoke)
    if stage == "check":
        check(bench)
    elif stage == "sd15":
        uniform(bench, "sd15", steps=50, lanes=64, batches=(32, 16))
    elif stage == "sdxl":
        uniform(bench, "sdxl", steps=20, lanes=32, batches=(8, 16))
    else:
        mixed(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=[*STAGES, "report", "digest"])
    parser.add_argument("--smoke", action="store_true", help="on a CPU, with `tiny`; without a stage, all of them")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    arguments = parser.parse_args()
    if arguments.stage is None and not arguments.smoke:
        parser.error("name a stage, or --smoke")
    if arguments.stage == "digest":
        digest(arguments.smoke)
        return
    for stage in STAGES if arguments.stage is None else (arguments.stage,):
        if stage != "report":
            run_stage(stage, arguments.out, arguments.smoke)
    print(markdown(arguments.out))


if __name__ == "__main__":
    main()
