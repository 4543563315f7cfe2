"""The engine: many different text-to-image requests through one UNet at once. Knows neither Ray nor storage.

request.py     what goes in and what comes out      validation.py  whether a request can be run
models.py      what a model folder says of itself   hub.py         a model on the hub
loading.py     weights into memory                  families.py    what is particular to SD and SDXL
samplers.py    the samplers by name                 tables.py      a scheduler as a table of numbers
lanes.py       which row sits in which lane         slots.py       the tensors of the lanes
embeddings.py  texts encoded, kept for a while      sampling.py    noise into latents
decoding.py    latents into pixels                  rescue.py      a second try in float32
attention.py   products made once, or as one        cpu.py         what makes a CPU faster
deep_cache.py  inner layers at some calls only      guidance.py    where a row's guidance is on
cuda_graph.py  a pass launched at once              quantization.py  weights in eight bits
calibration.py what this device can do              transfer.py    copies that nobody waits for
engine.py      `Engine`: admit, denoise, advance, retire
"""

from __future__ import annotations

from sdbatch.diffusion.models import ModelInfo, inspect_model, model_hash
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.validation import validate

__all__ = ["Engine", "GeneratedImage", "ModelInfo", "Request", "inspect_model", "model_hash", "validate"]


def __getattr__(name: str):
    # torch and diffusers take seconds to import, and who plans or validates needs neither.
    if name == "Engine":
        from sdbatch.diffusion.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
