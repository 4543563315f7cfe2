"""Picture processors of transformers that round equally everywhere."""

from __future__ import annotations

from typing import Any

import transformers

__all__ = ["processor_class"]


def processor_class(declared: str) -> Any:
    """The class of transformers that uses PIL, for the name of any class of its kind.

    The class of the plain name uses torchvision; without torchvision, merely looking it up prints a warning.
    """
    name = declared.removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    # Older releases have no class of the longer name, and theirs of the plain name uses PIL.
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
