"""Calls of diffusers' schedulers, as its pipelines make them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import diffusers
import torch

from sdbatch.diffusion.samplers.catalogue import EVERY_SAMPLER, FLOW_SAMPLERS
from sdbatch.errors import SamplerError

__all__ = ["FIXED", "Scheduler", "build_scheduler", "quiet", "scale_input", "start", "step"]

# Entries of every scheduler's configuration: clipping is not linear, and PNDM's Runge-Kutta steps are not offered.
FIXED = {"clip_sample": False, "thresholding": False, "skip_prk_steps": True}


class Scheduler(Protocol):
    """The common part of diffusers' schedulers; some also have `add_noise`, `scale_model_input`, …"""

    @property
    def config(self) -> Any: ...

    @property
    def timesteps(self) -> torch.Tensor: ...

    @property
    def order(self) -> int: ...

    @property
    def set_timesteps(self) -> Callable[..., None]: ...

    @property
    def step(self) -> Callable[..., Any]: ...


def build_scheduler(
    sampler: str, config: Mapping[str, object], forced: Mapping[str, object] | None = None
) -> Scheduler:
    """The diffusers scheduler of a sampler for a checkpoint.

    Args:
        sampler: canonical name.
        config: the checkpoint's own scheduler configuration.
        forced: entries that the checkpoint's pipeline overrides.

    Raises:
        SamplerError: the installed diffusers has no such class, or the class rejects the configuration.
    """
    entry = EVERY_SAMPLER[sampler]
    cls = getattr(diffusers, entry.scheduler, None)
    if cls is None:
        raise SamplerError(f"sampler {sampler}: diffusers {diffusers.__version__} has no {entry.scheduler}")
    settings = {**FIXED, **(forced or {})}
    if sampler in FLOW_SAMPLERS:
        # FlowMatchEuler's `shift` is `flow_shift` in the solvers. Neither class reads the other's.
        shift = config.get("shift", config.get("flow_shift", 1.0))
        settings |= {"shift": shift, "flow_shift": shift}
    with quiet():
        try:
            scheduler: Scheduler = cls.from_config(dict(config), **settings, **entry.config)
            return scheduler
        except (ValueError, NotImplementedError, ImportError, TypeError) as error:
            raise SamplerError(f"sampler {sampler} does not work with this model's scheduler: {error}") from error


def start(scheduler: Scheduler, steps: int, **schedule: Any) -> torch.Tensor:
    """Set the scheduler to the start of a run of `steps` steps; returns its timesteps, one per call.

    Args:
        schedule: arguments of `set_timesteps`; those that it does not have are omitted. A solver that computes flow
            sigmas itself gets none, as in diffusers' pipelines.
    """
    known = inspect.signature(scheduler.set_timesteps).parameters
    own_sigmas = scheduler.config.get("use_flow_sigmas", False)
    given = {
        name: list(value) if name == "sigmas" else value
        for name, value in schedule.items()
        if name in known and not (name == "sigmas" and own_sigmas)
    }
    with _fitting_offset(scheduler, steps):
        scheduler.set_timesteps(steps, **given)
    if hasattr(scheduler, "set_begin_index"):
        # Without it a first timestep that occurs twice is mistaken for the second, and the run overruns.
        scheduler.set_begin_index(0)
    # SCM's last timestep is the end of the run, at which nothing is called.
    return scheduler.timesteps[:-1] if type(scheduler).__name__ == "SCMScheduler" else scheduler.timesteps


@contextmanager
def _fitting_offset(scheduler: Any, steps: int) -> Iterator[None]:
    """Lower `steps_offset` until all timesteps are among those that the model was trained on.

    Leading spacing counts up from 0 and adds the offset. If every timestep is used there is no room for an offset:
    Stable Diffusion's offset of 1 would turn 999…0, the full reverse process of Ho et al. (2020), into 1000…1.
    """
    config = scheduler.config
    offset = config.get("steps_offset", 0)
    if config.get("timestep_spacing", "leading") != "leading" or not 0 < steps <= config.num_train_timesteps:
        yield
        return
    last = (steps - 1) * (config.num_train_timesteps // steps)
    fitting = min(offset, config.num_train_timesteps - 1 - last)
    if fitting == offset:
        yield
        return
    scheduler.register_to_config(steps_offset=fitting)
    try:
        yield
    finally:
        scheduler.register_to_config(steps_offset=offset)


def scale_input(scheduler: Scheduler, sample: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """`scheduler.scale_model_input`, which schedulers for flow matching lack: their input is the sample."""
    scale = getattr(scheduler, "scale_model_input", None)
    return sample if scale is None else scale(sample, t)


def step(
    scheduler: Scheduler, output: torch.Tensor, t: torch.Tensor, sample: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """`scheduler.step` with the arguments of diffusers' pipelines: their η is 0 by default."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": generator, "eta": 0.0}
    arguments = {name: value for name, value in arguments.items() if name in accepted}
    return scheduler.step(output, t, sample, return_dict=False, **arguments)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Mute diffusers' logs of configuration entries that a class does not know; here they are expected."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
