"""What a row costs, and how large a model is, known without loading it."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdbatch.diffusion.guidance import guidance_scales, paired_calls
from sdbatch.diffusion.models import ModelInfo, read_config, weight_files
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers import resolve

__all__ = ["count_parameters", "lane_calls"]

# Enough steps to see that a scheduler is linear, few enough to be quick.
PROBED_STEPS = 2


def lane_calls(request: Request, info: ModelInfo) -> int:
    """Calls of the model that a row's sampler makes, times the lanes that each takes.

    Second-order samplers make two calls a step; a call with guidance takes two lanes.

    Raises:
        SamplerError: the sampler does not go with this model.
    """
    from sdbatch.diffusion.tables import start  # brings in diffusers, which who validates does not need

    calls = len(start(_scheduler(info, resolve(request.sampler)), int(request.steps)))
    return calls + paired_calls(guidance_scales(request, info, calls))


@lru_cache
def _scheduler(info: ModelInfo, sampler: str) -> Any:
    from sdbatch.diffusion.tables import build_scheduler, compile_table

    config = read_config(info.folder / "scheduler" / "scheduler_config.json")
    compile_table(build_scheduler(sampler, config), PROBED_STEPS)
    return build_scheduler(sampler, config)


def count_parameters(info: ModelInfo) -> int:
    """Numbers in the model's weight files, from their headers."""
    return sum(_numbers(path) for path in weight_files(info))


def _numbers(path: Path) -> int:
    # https://huggingface.co/docs/safetensors: eight bytes say how long the JSON header is that follows.
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
