"""Checks every sampler at every number of steps: finite coefficients, or the reason that a plan gives.

    python benchmarks/sampler_grid.py [--samplers ddpm lms …] [--steps 1 1000] [--every 1] [--minutes 60]

Uses the scheduler configuration of Stable Diffusion 1.5. If a plan counts calls by rule, the coefficients must agree in
number. Compiling takes time proportional to the square of the steps, so the whole grid takes hours: `--every 97`
checks a few numbers of steps for each sampler, and `--minutes` ends early and reports the progress.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict

import numpy as np

from sdbatch.diffusion.samplers.call_counts import known_calls
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.samplers.coefficients import compile_coefficients
from sdbatch.diffusion.samplers.schedulers import build_scheduler
from sdbatch.errors import SamplerError

CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "trained_betas": None,
}


def look(sampler: str, steps: int) -> str | None:
    """The reason why there are no coefficients, with N for its numbers, or None.

    Raises:
        AssertionError: a plan is wrong.
    """
    calls = known_calls(sampler, steps, CONFIG)
    try:
        coefficients = compile_coefficients(build_scheduler(sampler, CONFIG), steps)
    except SamplerError as error:
        assert calls is None, f"{sampler} at {steps}: the plan counts {calls} calls, and there are no coefficients"
        return re.sub(r"\d+(\.\d+)?", "N", str(error))
    assert calls in (None, coefficients.calls), f"{sampler} at {steps}: the plan counts {calls} calls"
    for numbers in (coefficients.x, coefficients.m, coefficients.noise, coefficients.input_scale):
        assert np.isfinite(numbers).all(), f"{sampler} at {steps}: numbers that are not finite"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), metavar="NAME")
    parser.add_argument("--steps", type=int, nargs=2, default=(1, 1000), metavar=("FIRST", "LAST"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    first, last = options.steps
    counts = sorted({*range(first, last + 1, options.every), last})
    until = time.monotonic() + 60 * options.minutes
    compiled, reasons = 0, defaultdict(list)
    for steps in counts:
        for sampler in options.samplers:
            if time.monotonic() > until:
                print(f"ended at {sampler}, {steps} steps")
                break
            if reason := look(sampler, steps):
                reasons[sampler, reason].append(steps)
            else:
                compiled += 1
        else:
            continue
        break
    print(f"{compiled:,} compiled, {sum(map(len, reasons.values())):,} refused")
    for (sampler, reason), refused in sorted(reasons.items()):
        print(f"  {sampler}: {len(refused)} from {min(refused)} to {max(refused)}: {reason}")


if __name__ == "__main__":
    main()
