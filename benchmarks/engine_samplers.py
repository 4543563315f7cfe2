"""Measures how closely the coefficients of each sampler follow its scheduler; prints the table of docs/samplers.md.

    python benchmarks/engine_samplers.py

Both run on the same random model outputs and noise, in float64 if the scheduler allows it, at 10, 20 and 50 steps,
for ε- and v-prediction. The printed number is the largest difference of the final latents, relative to their largest
value.
"""

from __future__ import annotations

import numpy as np
import torch

from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.samplers.coefficients import Coefficients, compile_coefficients
from sdbatch.diffusion.samplers.schedulers import build_scheduler, start, step

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SHAPE = (1, 4, 16, 16)


def tabulated(
    coefficients: Coefficients, latents: np.ndarray, outputs: np.ndarray, noise: list[np.ndarray]
) -> np.ndarray:
    """x' = Σₖ aₖ·x₍ₖ₎ + Σₖ bₖ·m₍ₖ₎ + s·z, call by call, in float64."""
    xs, ms = [latents], []
    for i in range(coefficients.calls):
        ms.insert(0, outputs[i])
        terms = [
            coefficients.x[i, k] * xs[k] + coefficients.m[i, k] * ms[k] for k in range(min(i, coefficients.depth) + 1)
        ]
        xs.insert(0, sum(terms) + coefficients.noise[i] * noise[i])
    return xs[0]


def difference(sampler: str, steps: int, prediction_type: str) -> tuple[float, Coefficients]:
    scheduler = build_scheduler(sampler, CONFIG | {"prediction_type": prediction_type})
    coefficients = compile_coefficients(scheduler, steps)
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(SHAPE, generator=source, dtype=torch.float64)
    outputs = torch.randn(coefficients.calls, *SHAPE, generator=source, dtype=torch.float64)
    # diffusers' SDE samplers always draw in float32, all others in the dtype of the outputs.
    dtype = torch.float32 if "sde" in sampler else torch.float64
    draws = torch.Generator().manual_seed(1)
    noise = [
        torch.randn(SHAPE, generator=draws, dtype=dtype).double() if draw else torch.zeros(SHAPE)
        for draw in coefficients.draws
    ]
    ours = tabulated(coefficients, latents.numpy(), outputs.numpy(), [z.numpy() for z in noise])
    generator = torch.Generator().manual_seed(1)
    theirs = latents
    for i, t in enumerate(start(scheduler, steps)):
        scheduler.scale_model_input(theirs, t)
        theirs = step(scheduler, outputs[i], t, theirs, generator)
    theirs = theirs.double().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max()), coefficients


def main() -> None:
    print("| name | in PNG parameters | also known as | calls of the model | looks back | noise | agreement |")
    print("|---|---|---|---|---|---|---|")
    for name, sampler in SAMPLERS.items():
        worst = 0.0
        for steps in (10, 20, 50):
            for prediction_type in ("epsilon", "v_prediction"):
                by, coefficients = difference(name, steps, prediction_type)
                worst = max(worst, by)
        extra = coefficients.calls - steps
        calls = {0: "n", 1: "n + 1"}.get(extra, "2n − 1")
        aliases = ", ".join(f"`{alias}`" for alias in sampler.aliases)
        noise = "yes" if coefficients.noise.any() else "no"
        print(f"| `{name}` | {sampler.label} | {aliases} | {calls} | {coefficients.depth} | {noise} | {worst:.0e} |")


if __name__ == "__main__":
    main()
