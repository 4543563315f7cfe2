"""sdbatch turns a table of prompts into a dataset of images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdbatch.errors import (
    InputError,
    ModelError,
    RunError,
    SamplerError,
    SdbatchError,
    StorageError,
    UsageError,
)
from sdbatch.version import __version__ as __version__

if TYPE_CHECKING:
    from sdbatch.diffusion import Engine, GeneratedImage, Request
    from sdbatch.output.dataset import open_dataset as open
    from sdbatch.run.image_generator import ImageGenerator
    from sdbatch.run.pipeline import generate
    from sdbatch.run.report import RunReport

__all__ = [
    "Engine",
    "GeneratedImage",
    "ImageGenerator",
    "InputError",
    "ModelError",
    "Request",
    "RunError",
    "RunReport",
    "SamplerError",
    "SdbatchError",
    "StorageError",
    "UsageError",
    "generate",
    "open",
]

# Imported when first used: torch and Ray take seconds to load, and the engine must run where Ray is not.
_LAZY = {
    "Engine": ("sdbatch.diffusion", "Engine"),
    "GeneratedImage": ("sdbatch.diffusion", "GeneratedImage"),
    "ImageGenerator": ("sdbatch.run.image_generator", "ImageGenerator"),
    "Request": ("sdbatch.diffusion", "Request"),
    "RunReport": ("sdbatch.run.report", "RunReport"),
    "generate": ("sdbatch.run.pipeline", "generate"),
    "open": ("sdbatch.output.dataset", "open_dataset"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sdbatch' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
