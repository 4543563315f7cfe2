"""The engine: many different requests through one denoiser at once. Knows neither Ray nor storage.

engine.py       `Engine`: admit, denoise, advance, retire     lanes.py         assigns rows to lanes
request.py      input and output of the engine                validation.py    checks whether a request can be run
slots.py        the tensors of the lanes                      sampling.py      from noise to latents
embeddings.py   encodes and caches texts                      decoding.py      from latents to pixels
row_fields.py   fields and defaults of rows                   calls.py         counts a row's calls
guidance.py     the calls at which guidance is on             rescue.py        retries in float32
cuts.py         runs that start from a picture                memory_policy.py what happens when memory runs out
model_coefficients.py  the coefficients of a model's rows     engine_choices.py the words that settings take

checkpoints/    reads a model's files                         models/          inspects, identifies and loads models
samplers/       samplers by name, and as coefficients         families/        everything specific to a kind of model
tasks/          kinds of rows, with or without pictures       pictures/        input pictures
accelerate/     faster passes                                 device/          the device that an engine runs on
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.models.inspection import ModelInfo, inspect_model
from sdbatch.diffusion.models.model_identity import model_hash
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.validation import validate

if TYPE_CHECKING:
    from sdbatch.diffusion.engine import Engine

__all__ = ["Engine", "GeneratedImage", "ModelInfo", "Picture", "Request", "inspect_model", "model_hash", "validate"]


SPINS = "10000"


def __getattr__(name: str) -> Any:
    # torch and diffusers take seconds to import, and planning and validation need neither.
    if name == "Engine":
        _spin_briefly()
        with _collecting_paused():
            from sdbatch.diffusion.engine import Engine
        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _spin_briefly() -> None:
    """Have torch's threads wait for work without spinning for long, unless the environment says how they wait.

    By libgomp's default they spin for milliseconds, on a core that others could use: on busy cores `tiny` took twelve
    times as long. Without spinning, it takes a third longer on idle ones. Read once, when torch is first imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


@contextmanager
def _collecting_paused() -> Iterator[None]:
    """Pause garbage collection during imports, which create hardly any garbage: it would take a fifth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
