"""The stage `check` of `benchmarks/gpu.py`: the same bits in every place, beside other rows, and short of memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from engine_measure import run_engine
from gpu_bench import Bench
from gpu_choices import attention_by_shape
from gpu_shortage import SHORTAGES

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

__all__ = ["check", "digest"]

ROOT = Path(__file__).resolve().parent.parent
# Fractions of the device's memory to which `tiny` is limited, so that memory runs out.
SCARCE = (0.012, 0.008, 0.006, 0.005, 0.004)
# Without the fixtures of other tests, which need Ray.
GPU_TESTS = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--noconftest", "tests/gpu", "-p", "no:cacheprovider")
ROWS = [Request("a red circle", seed=i, steps=2 + i % 3, height=s, width=s) for i, s in enumerate((64, 128, 96) * 4)]


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
    here, there = pictures(engine, ROWS), in_thread(lambda: pictures(engine, ROWS))
    found.add("another thread, same bits", here == there)
    # Of every size that the rows had: text encoder, denoiser, VAE and CUDA graphs.
    described = engine.describe()
    found.add("every network and size, same bits in any place", described["lane_invariant"], described["checks"])
    attention_by_shape(bench, {})
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
    engine.close()
    for part in SHORTAGES:
        found.add(f"out of memory at {part}", line_from_process(bench, "shortage", part))
    command = [*GPU_TESTS, *(["--collect-only"] if bench.smoke else [])]
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
        environment = os.environ | own | extra
        running.append(subprocess.Popen(runbook(bench, "digest"), env=environment, stdout=subprocess.PIPE, text=True))
    return [process.communicate()[0].strip() for process in running]


def runbook(bench: Bench, *arguments: str) -> list[str | Path]:
    """The command of another process of the runbook."""
    return [sys.executable, ROOT / "benchmarks" / "gpu.py", *arguments, *(["--smoke"] if bench.smoke else [])]


def line_from_process(bench: Bench, *arguments: str) -> str:
    """The last line that another process of the runbook prints."""
    command = runbook(bench, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(30, bench.left))
    except subprocess.TimeoutExpired:
        return "did not end in time"
    return (done.stdout.strip() or done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]


def in_thread(work):
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
