"""The coefficients of a model's rows. Schedulers are built only here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from sdbatch.diffusion.checkpoints.configs import Config, read_config
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.cuts import compile_run, count_calls
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.samplers.coefficients import Coefficients
from sdbatch.diffusion.samplers.scheduler_entries import misfit
from sdbatch.diffusion.samplers.schedulers import build_scheduler
from sdbatch.diffusion.tasks import Run, task_of
from sdbatch.errors import SamplerError

__all__ = ["ModelCoefficients"]


class ModelCoefficients:
    """Coefficients by sampler, steps, and other inputs of the model's schedule; compiled once each.

    Args:
        config: the checkpoint's own scheduler configuration.
        index: its model_index.json.
    """

    def __init__(self, info: ModelInfo, config: Mapping[str, object], index: Config):
        self._info = info
        self._family = family_named(info.family)
        self._config = config
        self._forced = self._family.forced_scheduler_config(index)
        self._compiled: dict[Hashable, Coefficients] = {}

    @classmethod
    def of(cls, info: ModelInfo) -> ModelCoefficients:
        """The coefficients of a local model's rows. Raises `ModelError` if its configurations can't be read."""
        config = read_config(info.folder / "scheduler" / "scheduler_config.json")
        return cls(info, config, read_config(info.folder / "model_index.json"))

    def refusal(self, sampler: str) -> str | None:
        """The reason why a sampler can't use the model's changed scheduler configuration; None if it can."""
        if reason := misfit(sampler, self._info.scheduler_config):
            return reason
        try:
            build_scheduler(sampler, self._config, self._forced)
        except SamplerError as error:
            return str(error)
        return None

    def of_row(self, request: Request) -> Coefficients:
        """The row's coefficients.

        Raises:
            SamplerError: the model does not support its sampler with these steps.
        """
        key = resolve(request.sampler), self._run(request)
        if key not in self._compiled:
            coefficients = compile_run(build_scheduler(key[0], self._config, self._forced), key[1])
            self._compiled[key] = self._family.fold(coefficients)
        return self._compiled[key]

    def count_calls(self, request: Request) -> int:
        """The number of calls of the row's sampler, without compiling its coefficients.

        Raises:
            SamplerError: the model does not support its sampler.
        """
        scheduler = build_scheduler(resolve(request.sampler), self._config, self._forced)
        return count_calls(scheduler, self._run(request))

    def _run(self, request: Request) -> Run:
        run = task_of(request).run(request, self._info)
        schedule = self._family.schedule(request, self._info, self._config)
        return replace(run, schedule=(*schedule.items(), *run.schedule))
