"""Measures the speed of a model on this machine for a few seconds."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdbatch.diffusion import Engine, ModelInfo, Request

__all__ = ["Speed", "measure"]

SECONDS = 8.0
MIN_PASSES = 3


@dataclass(frozen=True)
class Speed:
    """The speed of one worker on this machine.

    Attributes:
        device_name, dtype, lanes: the measured configuration.
        passes_per_second: passes of the UNet with all its lanes, decoding and text encoding included.
        peak_bytes: peak memory: of the GPU, or on a CPU of the whole process.
    """

    device_name: str
    dtype: str
    lanes: int
    passes_per_second: float
    peak_bytes: int


def measure(model: ModelInfo, engine_settings: Mapping[str, Any], requests: Sequence[Request]) -> Speed:
    """Make some of `requests`, at least one, with an engine in this process, for a few seconds, and discard them.

    Raises:
        ModelError, UsageError: the engine can't be set up with these settings.
    """
    engine = Engine(model, **engine_settings)

    def step() -> bool:
        if engine.idle:
            for request in requests:
                engine.submit(request)
        before = engine.counters["lane_calls"]
        engine.step()
        return engine.counters["lane_calls"] > before  # the last steps of a round only decode

    step()  # the first one chooses kernels and encodes texts
    # With DeepCache every N-th pass takes longer than the others.
    min_passes = MIN_PASSES * engine_settings.get("deep_cache", 1)
    started, passes = time.perf_counter(), 0
    while passes < min_passes or time.perf_counter() - started < SECONDS:
        passes += step()
    elapsed = time.perf_counter() - started
    described = engine.describe()
    peak = _peak_bytes(engine.device)
    engine.close()
    return Speed(described["device_name"], described["dtype"], described["lanes"], passes / elapsed, peak)


def _peak_bytes(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    import torch

    return torch.cuda.max_memory_allocated()
