"""The engine: many different requests through one denoiser at once. Knows neither Ray nor storage.

engine.py       `Engine`: admit, denoise, advance, retire     lanes.py         which row sits in which lane
request.py      what goes in and what comes out               validation.py    whether a request can be run
slots.py        the tensors of the lanes                      sampling.py      noise into latents
embeddings.py   texts encoded, kept for a while               decoding.py      latents into pixels
declarations.py what families and tasks say of their rows     calls.py         what a row costs
model_tables.py a model's samplers, tabulated                 cuts.py          tables of runs that start from a picture
guidance.py     where a row's guidance is on                  rescue.py        a second try in float32

checkpoints/    what a model's files say                      models/          a model inspected, identified, loaded
samplers/       samplers by name, and as coefficients         families/        what is particular to a kind of model
tasks/          kinds of rows, with or without pictures       pictures/        pictures that rows bring
accelerate/     what makes passes faster                      device/          what an engine runs on
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from sdbatch.diffusion.models.inspection import ModelInfo, inspect_model
from sdbatch.diffusion.models.model_identity import model_hash
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.validation import validate

__all__ = ["Engine", "GeneratedImage", "ModelInfo", "Picture", "Request", "inspect_model", "model_hash", "validate"]


def __getattr__(name: str):
    # torch and diffusers take seconds to import, and who plans or validates needs neither.
    if name == "Engine":
        with _collecting_paused():
            from sdbatch.diffusion.engine import Engine
        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def _collecting_paused() -> Iterator[None]:
    """For imports: almost none of the objects that they make is garbage, and looking takes a fifth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
