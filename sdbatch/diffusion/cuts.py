"""Coefficients of runs that start from a picture: a scheduler's later steps, and how it adds noise to a picture.

Image-to-image pipelines skip the first timesteps (their `get_timesteps`), start from a·picture + s·noise, and, if
they keep parts of the picture, set these to a·picture + s·noise after each call. As for steps, the numbers are read
off the live scheduler.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from sdbatch.diffusion.samplers.coefficients import Coefficients, compile_coefficients
from sdbatch.diffusion.samplers.schedulers import Scheduler, quiet, scale_input, start, step
from sdbatch.diffusion.tasks.task import Run
from sdbatch.errors import SamplerError

__all__ = ["compile_run", "count_calls"]


def compile_run(scheduler: Scheduler, run: Run) -> Coefficients:
    """Compile the coefficients of a row's run.

    Raises:
        SamplerError: see `compile_coefficients`; the run has no step left; or it starts from a picture, and the
            scheduler can't add noise to one.
    """
    if not run.noised:
        return compile_coefficients(scheduler, run.steps, **dict(run.schedule))
    if not (hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")):
        name = type(scheduler).__name__
        raise SamplerError(f"{name} can't add noise to a picture, so rows can't start from one with it")
    if run.left_out >= run.steps:
        raise SamplerError(f"none of {run.steps} steps is left")
    cut = _cut(scheduler, run.left_out * scheduler.order)
    coefficients = compile_coefficients(cut, run.steps, **dict(run.schedule))
    noising = _noising(cut, run)
    return dataclasses.replace(coefficients, start=(float(noising[0][0]), float(noising[0][1])), keep=noising[1:])


def count_calls(scheduler: Scheduler, run: Run) -> int:
    """The number of calls of a run, without compiling it."""
    return len(start(scheduler, run.steps, **dict(run.schedule))) - run.left_out * scheduler.order


class _Cut:
    """A scheduler whose runs start at a later timestep; everything else is unchanged."""

    def __init__(self, scheduler: Any, begin: int):
        self._scheduler = scheduler
        self._begin = begin

    def __getattr__(self, name: str) -> Any:
        if name == "set_begin_index":
            set_begin_index = self._scheduler.set_begin_index
            return lambda index: set_begin_index(self._begin + index)
        return getattr(self._scheduler, name)

    @property
    def timesteps(self) -> torch.Tensor:
        return self._scheduler.timesteps[self._begin :]


def _cut(scheduler: Scheduler, begin: int) -> _Cut:
    named: type[_Cut] = type(type(scheduler).__name__, (_Cut,), {})  # error messages name the scheduler's class
    return named(scheduler, begin)


def _noising(scheduler: _Cut, run: Run) -> np.ndarray:
    """The factors of a picture and of noise at the start and after each call: float64 (calls + 1, 2).

    Those of `add_noise`, or of `scale_noise` in schedulers for flow matching. They may depend on the scheduler's state,
    not only on the timestep."""
    generator = torch.Generator().manual_seed(0)
    one, zero = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (1.0, 0.0))

    def noised(picture: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> float:
        if hasattr(scheduler, "scale_noise"):
            return float(scheduler.scale_noise(picture, timesteps, noise))
        return float(scheduler.add_noise(picture, noise, timesteps))

    def factors(timesteps: torch.Tensor) -> tuple[float, float]:
        return noised(one, zero, timesteps), noised(zero, one, timesteps)

    with quiet():
        timesteps = start(scheduler, run.steps, **dict(run.schedule))
        noising = [factors(timesteps[:1])]
        for i, t in enumerate(timesteps):
            scale_input(scheduler, zero, t)
            step(scheduler, zero, t, zero, generator)
            # After the last call, the kept parts are the picture itself.
            noising.append(factors(timesteps[i + 1 : i + 2]) if i + 1 < len(timesteps) else (1.0, 0.0))
    return np.array(noising)
