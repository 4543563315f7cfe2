"""`sdbatch bench`: how fast a model is on this machine."""

from __future__ import annotations

from typing import Any

from sdbatch.cli.options import command
from sdbatch.settings import DEVICES, DTYPES, QUANTIZATIONS, SWITCHES, RunSettings
from sdbatch.words import size

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch bench
      the small model that is built in, on this machine's best device
  sdbatch bench --model ./stable-diffusion-v1-5 --steps 25 --sampler dpmpp_2m --lanes 32
      your own model, as a run would set it up
Comparisons with diffusers, side by side, are in the folder benchmarks/ of the source.
"""
ROWS = 256


def add(commands: Any) -> None:
    parser = command(commands, "bench", _bench, "measure how fast a model is on this machine", EXAMPLES)
    defaults = RunSettings()
    parser.add_argument("--model", default=defaults.model, metavar="NAME|DIR", help="default %(default)s")
    parser.add_argument("--sampler", default="ddim", metavar="NAME", help="default %(default)s")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="default %(default)s")
    parser.add_argument("--guidance-scale", type=float, default=defaults.guidance_scale, metavar="G")
    parser.add_argument("--lanes", type=int, metavar="L", help="default: as a run would choose")
    parser.add_argument("--dtype", choices=DTYPES, default=defaults.dtype)
    parser.add_argument("--device", choices=DEVICES, default=defaults.device)
    parser.add_argument("--compile", choices=SWITCHES, default=defaults.compile)
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="none", help="default %(default)s")
    parser.add_argument("--deep-cache", type=int, default=1, metavar="N", help="default %(default)s")


def _bench(model: str, sampler: str, steps: int, guidance_scale: float, **engine: Any) -> int:
    from sdbatch.diffusion import Request, inspect_model, validate
    from sdbatch.diffusion.calls import lane_calls
    from sdbatch.errors import UsageError
    from sdbatch.measure import measure

    info = inspect_model(model)
    settings = {"sampler": sampler, "steps": steps, "guidance_scale": guidance_scale}
    requests = [Request("a red circle", seed=seed, **settings) for seed in range(ROWS)]
    if reason := validate(requests[0], info):
        raise UsageError(reason)
    speed = measure(info.folder, engine, requests)
    passes = lane_calls(requests[0], info) / speed.lanes
    print(
        f"{speed.passes_per_second / passes:.2f} images a second: {sampler}, {steps} steps, guidance {guidance_scale:g}"
    )
    print(f"{speed.passes_per_second:.2f} passes a second of {speed.lanes} lanes on {speed.device_name}, {speed.dtype}")
    print(f"{size(speed.peak_bytes)} of memory at most")
    return 0
