"""Sana-Sprint (Chen et al. 2025): checks of its folder, and facts read from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sdbatch.bounds import Number
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, number, text
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import UNGUIDED
from sdbatch.diffusion.families.sana_family import SanaFamily, sana_parts
from sdbatch.diffusion.request import ROWS, Request
from sdbatch.errors import ModelError
from sdbatch.fields import Field

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients

__all__ = ["SanaSprintFamily"]

TRIGFLOW = "trigflow"
SCM_SCHEDULER: Mapping[str, Kind] = {
    "_class_name": text(),
    "num_train_timesteps": integer(1, 100_000),
    "prediction_type": text(TRIGFLOW),
    "sigma_data": number(1e-6, 1e6),
}
MAX_ANGLE = 1.5708
INTERMEDIATE_ANGLE = 1.3
STEPS_WITH_INTERMEDIATE = 2


class SanaSprintFamily(SanaFamily):
    """Sana distilled to one to four steps: a consistency model whose guidance is an input of the denoiser."""

    name = "sana-sprint"
    title = "Sana-Sprint"
    pipelines = ("SanaSprintPipeline",)
    parts = sana_parts(SCM_SCHEDULER)
    engine = "sdbatch.diffusion.families.sana_sprint:SanaSprint"
    samplers = ("scm",)
    uses = UNGUIDED | {"guidance_scale"}
    fields = (
        Field(
            name="max_timesteps",
            kind=Number(0.001, MAX_ANGLE),
            default=MAX_ANGLE,
            help=f"Sana-Sprint: the noise level of the first step, an angle; {MAX_ANGLE:g} is pure noise",
            group=ROWS,
            metavar="ANGLE",
        ),
        Field(
            name="intermediate_timesteps",
            kind=Number(0.001, MAX_ANGLE),
            fallback=INTERMEDIATE_ANGLE,
            help="Sana-Sprint: the noise level of the second of 2 steps, an angle; only for rows of 2 steps",
            group=ROWS,
            metavar="ANGLE",
            null_text=f"{INTERMEDIATE_ANGLE} with 2 steps",
        ),
    )
    defaults: Mapping[str, object] = {"sampler": "scm", "steps": 2, "guidance_scale": 4.5, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer = configs["transformer"]
        if not transformer.get("guidance_embeds"):
            raise ModelError(f"{transformer.source}: a transformer without guidance_embeds is not Sana-Sprint's")
        return self.sana_info(configs, prediction_type=TRIGFLOW, guidance_embedded=True)

    def forced_scheduler_config(self, index: Config) -> Mapping[str, object]:
        # The pipeline multiplies and divides by it so that it has no effect.
        return {"sigma_data": 1.0}

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        intermediate = request.extra.get("intermediate_timesteps") or INTERMEDIATE_ANGLE
        return {
            "max_timesteps": request.extra.get("max_timesteps", MAX_ANGLE),
            "intermediate_timesteps": intermediate if request.steps == STEPS_WITH_INTERMEDIATE else None,
        }

    def refusal(self, request: Request, info: ModelInfo) -> str | None:
        intermediate = request.extra.get("intermediate_timesteps")
        if intermediate is None:
            return None
        if request.steps != STEPS_WITH_INTERMEDIATE:
            return f"intermediate_timesteps is for rows of {STEPS_WITH_INTERMEDIATE} steps, not {request.steps}"
        if intermediate >= (first := request.extra.get("max_timesteps", MAX_ANGLE)):
            return f"intermediate_timesteps must be less than max_timesteps, {first:g}, not {intermediate:g}"
        return None

    def fold(self, coefficients: Coefficients) -> Coefficients:
        """The denoiser is one of flow matching: its time and the scale of its input follow from the angle t.

        With s = sin t / (sin t + cos t) and r = √(s² + (1 − s)²), the denoiser's input is r·x, and the scheduler
        takes ((1 − 2s)·r·x + (1 − 2s + 2s²)·output) / r. All is in float32, as in the pipeline.
        """
        sine, cosine = np.sin(coefficients.timesteps), np.cos(coefficients.timesteps)
        time = sine / (cosine + sine)
        scale = np.sqrt(time**2 + (1 - time) ** 2)
        return dataclasses.replace(
            coefficients,
            timesteps=time,
            input_scale=scale.astype(np.float64),
            x=coefficients.x + coefficients.m * (1 - 2 * time)[:, None],
            m=coefficients.m * ((1 - 2 * time + 2 * time**2) / scale)[:, None],
        )
