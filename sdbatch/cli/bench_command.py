"""`sdbatch bench`: measure how fast a model is on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sdbatch.cli.options import add_field, add_storage_options, command, warn_if_unused
from sdbatch.cli.words import size
from sdbatch.settings import ROW_OPTIONS, RUN_FIELDS, RunSettings

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch bench
      the small built-in model, on this machine's best device
  sdbatch bench --model ./stable-diffusion-v1-5 --steps 25 --sampler dpmpp_2m --lanes 32
      your own model, set up as in a run
The folder benchmarks/ of the source repository compares speeds with diffusers, side by side.
"""
ROWS = 256
MODEL_OPTIONS = ("revision", "variant", "tokenizer", "prediction_type", "vae", "text_encoder", "scheduler_config")
OPTIONS = {field.name: field for field in (*ROW_OPTIONS, *RUN_FIELDS)}


def add(commands: Any) -> None:
    parser = command(commands, "bench", _bench, "measure how fast a model is on this machine", EXAMPLES)
    add_field(parser, OPTIONS["model"], help="default %(default)s; as for generate")
    for name in MODEL_OPTIONS:
        add_field(parser, OPTIONS[name])
    add_storage_options(parser)
    add_field(parser, OPTIONS["sampler"], help="default: ddim if the model has it, else the model's default")
    add_field(parser, OPTIONS["steps"], default=20, help="default %(default)s")
    add_field(parser, OPTIONS["guidance_scale"])
    add_field(parser, OPTIONS["lanes"], help="default: as in a run")
    for name in ("dtype", "device", "compile", "release_text_encoders"):
        add_field(parser, OPTIONS[name])
    add_field(parser, OPTIONS["quantization"], default="none", help="default %(default)s")
    add_field(parser, OPTIONS["deep_cache"], default=1, help="default %(default)s")


def _bench(
    storage_options: dict[str, Any], sampler: str | None, steps: int, guidance_scale: float | None, **others: Any
) -> int:
    from sdbatch.diffusion import Request, validate
    from sdbatch.diffusion.calls import lane_calls
    from sdbatch.errors import UsageError
    from sdbatch.plan.planning import settings_source
    from sdbatch.resolution import resolved

    of_the_model = {name: others.pop(name) for name in ("model", *MODEL_OPTIONS)}
    named = [
        place
        for value in of_the_model.values()
        for place in (value.values() if isinstance(value, Mapping) else [value])
    ]
    warn_if_unused(storage_options, *(place for place in named if isinstance(place, str)))
    source = settings_source(RunSettings(**of_the_model, storage_options=storage_options))
    info = source.inspect()
    if sampler is None:
        sampler = "ddim" if "ddim" in info.samplers else str(info.defaults["sampler"])
    given = RunSettings(sampler=sampler, steps=steps, guidance_scale=guidance_scale)
    guidance_scale = resolved(given, info).value("guidance_scale")
    first = Request("a red circle", seed=0, sampler=sampler, steps=steps, guidance_scale=guidance_scale)
    requests = [replace(first, seed=seed) for seed in range(ROWS)]
    if reason := validate(requests[0], info):
        raise UsageError(reason)

    from sdbatch.plan.speed_test import measure  # its imports take seconds; wrong options are reported first

    speed = measure(info, others, requests)
    passes = lane_calls(requests[0], info) / speed.lanes
    print(
        f"{speed.passes_per_second / passes:.2f} images per second: {sampler}, {steps} steps, "
        f"guidance {guidance_scale:g}"
    )
    print(
        f"{speed.passes_per_second:.2f} passes per second of {speed.lanes} lanes on {speed.device_name}, {speed.dtype}"
    )
    print(f"{size(speed.peak_bytes)} of memory at peak")
    return 0
