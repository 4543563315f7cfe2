"""Common parts of the engine's benchmarks: the two contestants, the clock, and a device's peak."""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from torch.utils.flop_counter import FlopCounterMode

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.loading import DTYPES
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.schedulers import build_scheduler

__all__ = [
    "Diffusers",
    "add_options",
    "alternate",
    "denoiser_flops",
    "in_turn",
    "make_engine",
    "matmul_peak",
    "report_device",
    "run_engine",
    "uniform_table",
    "waiting_share",
]

PROMPTS = (
    "a red circle on a blue background",
    "portrait of an astronaut, oil on canvas, dramatic light",
    "a small green square left of a large yellow triangle",
    "misty forest at dawn, 35mm photograph, highly detailed",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="tiny, sd15, sd21, sdxl (random weights) or a folder")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="both contestants through torch.compile")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; the best of each counts")


class Diffusers:
    """diffusers' own pipeline, called on batches of rows with equal settings."""

    def __init__(self, folder: Path, engine: Engine, compiled: bool):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        family = engine.info.family
        options = {"sd": {"safety_checker": None}, "sdxl": {"add_watermarker": False}}.get(family, {})
        self.pipeline = DiffusionPipeline.from_pretrained(folder, dtype=DTYPES[engine.dtype], **options)
        self.pipeline.to(engine.device).set_progress_bar_config(disable=True)
        self._denoiser = "unet" if hasattr(self.pipeline, "unet") else "transformer"
        # Flow models keep the scheduler of their folder.
        self._config = dict(self.pipeline.scheduler.config) if self._denoiser == "unet" else None
        self._forced = {"steps_offset": 1} if family == "sd" else {}
        if compiled:
            denoiser = torch.compile(getattr(self.pipeline, self._denoiser), dynamic=False)
            setattr(self.pipeline, self._denoiser, denoiser)

    def as_fast_as_it_can(self) -> None:
        """What diffusers' own guides advise: channels_last for a UNet, and pictures decoded one by one."""
        if self._denoiser == "unet":
            self.pipeline.unet.to(memory_format=torch.channels_last)
        self.pipeline.vae.enable_slicing()

    def __call__(self, rows: list[Request]) -> dict[int, np.ndarray]:
        """Pictures by seed, uint8 (H, W, 3)."""
        first = rows[0]
        if self._config is not None:
            self.pipeline.scheduler = build_scheduler(first.sampler, self._config, self._forced)
        images = self.pipeline(
            prompt=[row.prompt for row in rows],
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            height=first.height,
            width=first.width,
            generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
            output_type="np",
        ).images
        pixels = (images * 255).round().astype(np.uint8)
        return dict(zip([row.seed for row in rows], pixels, strict=True))


def make_engine(folder: Path, arguments: argparse.Namespace, **settings: Any) -> Engine:
    torch.set_num_threads(arguments.threads)
    compile = "on" if arguments.compile else "off"
    return Engine(
        folder, lanes=arguments.lanes, dtype=arguments.dtype, device=arguments.device, compile=compile, **settings
    )


def uniform_table(rows: int, **settings: Any) -> list[Request]:
    """Rows that differ only in prompt and seed."""
    return [Request(PROMPTS[seed % len(PROMPTS)], seed=seed, **settings) for seed in range(rows)]


def run_engine(engine: Engine, rows: list[Request]) -> dict[int, np.ndarray]:
    images = list(engine.generate(rows))
    failed = [image.error for image in images if image.error]
    if failed:
        raise SystemExit(f"{len(failed)} rows failed: {failed[0]}")
    return {image.request.seed: image.pixels for image in images}


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best wall-clock seconds of each, run in turn so that a busy machine affects all equally."""
    return {name: min(wall for wall, _ in taken) for name, taken in in_turn(contestants, rounds).items()}


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and CPU seconds of each in every round.

    CPU seconds are the better measure on a shared machine, with one thread.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            _synchronize()
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            seconds[name].append((wall, cpu))
            print(f"  round {number + 1}, {name}: {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
    return seconds


def report_device(engine: Engine, rows: list[Request], seconds: float) -> None:
    """Print the share of the device's matmul peak that the denoiser reached, and its peak memory."""
    flops = denoiser_flops(engine) * sum(lane_calls(row, engine.info) for row in rows)
    peak = matmul_peak(engine.device, DTYPES[engine.dtype])
    print(f"matmul peak {peak / 1e12:.2f} TFLOP/s; the denoiser at {flops / seconds / peak:.1%} of it")
    if engine.device == "cpu":
        print(f"peak memory, of both contestants {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    else:
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
        print(f"the device waited {waiting_share(engine, rows):.1%} of the time")


def denoiser_flops(engine: Engine) -> int:
    """Floating-point operations of one lane's pass through the denoiser, multiplications and additions."""
    family = engine.family
    request = Request("x", guidance_scale=1.0)
    shape = family.latent_shape(engine.info.height, engine.info.width)
    encoded = [_first(family.encode([text])) for text in family.texts(request)]
    (named,) = family.conditioning(request, family.joined(request, encoded), shape)
    latents = torch.zeros(1, *shape, device=family.device)
    timesteps = torch.zeros(1, device=family.device)
    # The operator of linear layers on a CPU (sdbatch/diffusion/accelerate/cpu.py), which torch's counter does not know.
    known = {torch.ops.mkldnn._linear_pointwise: _linear_flops}
    # Under the counter Dynamo would give up on compiled code for good, also on that of diffusers' pipeline.
    uncompiled = torch.compiler.set_stance("force_eager")
    with uncompiled, torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=known) as counter:
        family.denoise(latents, timesteps, {name: tensor[None] for name, tensor in named.items()})
    return counter.get_total_flops()


def _linear_flops(inputs: torch.Size, weight: torch.Size, *_, **__) -> int:
    return 2 * inputs.numel() * weight[0]


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the best median of square matrix products; large ones on a GPU, a small one on a CPU."""
    sizes = (8192, 16384) if device.startswith("cuda") else (1024, 2048)
    return max(2 * size**3 / _median_seconds(size, device, dtype) for size in sizes)


def _median_seconds(size: int, device: str, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        _synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def waiting_share(engine: Engine, rows: list[Request]) -> float:
    """1 − time in which any kernel ran ÷ time from the first kernel to the last (CUDA only)."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run_engine(engine, rows)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])


def _first(encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor[0] for name, tensor in encoded.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
