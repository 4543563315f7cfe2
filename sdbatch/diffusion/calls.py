"""What a row costs, and how large a model is, known without loading it."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdbatch.diffusion.models import ModelInfo, read_config, weight_files
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers import resolve

__all__ = ["count_parameters", "lanes_of", "model_calls"]

# Enough steps to see that a scheduler is linear, few enough to be quick.
PROBED_STEPS = 2


def lanes_of(request: Request, info: ModelInfo) -> int:
    """Lanes of the UNet that a row takes: two with guidance, conditional and unconditional, else one."""
    return 2 if request.guidance_scale > 1 and not info.guidance_embedded else 1


def model_calls(request: Request, info: ModelInfo) -> int:
    """Calls of the model that a row's sampler makes; second-order samplers make two a step.

    Raises:
        SamplerError: the sampler does not go with this model.
    """
    from sdbatch.diffusion.tables import start  # brings in diffusers, which who validates does not need

    return len(start(_scheduler(info, resolve(request.sampler)), int(request.steps)))


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
