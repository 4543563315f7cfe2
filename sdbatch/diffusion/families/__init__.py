"""Model families. Everything specific to one kind of model is here; engine, lanes and slots know none of it.

declaration.py     the base class of declarations: what is known without torch
family.py          the base class of engine halves: the interface to the engine
NAME_family.py     a family's declaration
NAME.py            its engine half

Engine halves are imported at first use, because they import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from sdbatch.diffusion.families.chroma_family import ChromaFamily
from sdbatch.diffusion.families.declaration import Declaration
from sdbatch.diffusion.families.flux_2_family import Flux2DevFamily, Flux2KleinFamily
from sdbatch.diffusion.families.flux_family import FluxFamily
from sdbatch.diffusion.families.lumina_2_family import Lumina2Family
from sdbatch.diffusion.families.picture_families import DepthFamily, UpscalerFamily, VariationFamily
from sdbatch.diffusion.families.pixart_sigma_family import PixArtSigmaFamily
from sdbatch.diffusion.families.qwen_image_family import QwenImageFamily
from sdbatch.diffusion.families.refiner_family import RefinerFamily
from sdbatch.diffusion.families.sana_family import SanaFamily
from sdbatch.diffusion.families.sana_sprint_family import SanaSprintFamily
from sdbatch.diffusion.families.stable_diffusion_3_family import StableDiffusion3Family
from sdbatch.diffusion.families.stable_diffusion_family import StableDiffusionFamily, StableDiffusionXLFamily
from sdbatch.diffusion.families.z_image_family import ZImageFamily
from sdbatch.errors import ModelError

__all__ = ["ENTRY_POINTS", "FAMILIES", "family_named", "family_of_pipeline", "installed_families", "pipelines"]

FAMILIES: list[Declaration] = [
    StableDiffusionFamily(),
    StableDiffusionXLFamily(),
    RefinerFamily(),
    DepthFamily(),
    UpscalerFamily(),
    VariationFamily(),
    StableDiffusion3Family(),
    FluxFamily(),
    ChromaFamily(),
    Flux2DevFamily(),
    Flux2KleinFamily(),
    ZImageFamily(),
    Lumina2Family(),
    QwenImageFamily(),
    PixArtSigmaFamily(),
    SanaFamily(),
    SanaSprintFamily(),
]

# Other packages can provide families: entry points of this group are subclasses of `Declaration`.
ENTRY_POINTS = "sdbatch.families"

_ENGINE_HALVES = {
    "Components": "components",
    "Family": "family",
    "StableDiffusion": "stable_diffusion",
    "StableDiffusionXL": "stable_diffusion_xl",
}


def family_named(name: str) -> Declaration:
    """The family of that name. Raises `ModelError` if this installation has none."""
    found = _first(lambda family: family.name == name)
    if found is None:
        raise ModelError(f"this installation has no model family {name!r}")
    return found


def family_of_pipeline(pipeline: object) -> Declaration | None:
    """The family that runs a diffusers pipeline class, or None."""
    return _first(lambda family: pipeline in family.pipelines)


def pipelines() -> list[str]:
    """The diffusers pipeline classes that the engine runs."""
    return [pipeline for family in FAMILIES for pipeline in family.pipelines]


def _first(fits: Callable[[Declaration], bool]) -> Declaration | None:
    """The built-in families come first; other packages are searched only if none of these matches."""
    return next(filter(fits, FAMILIES), None) or next(filter(fits, installed_families()), None)


@cache
def installed_families() -> tuple[Declaration, ...]:
    """The families that other installed packages provide."""
    return tuple(entry.load()() for entry in entry_points(group=ENTRY_POINTS))


def __getattr__(name: str) -> Any:
    if name in _ENGINE_HALVES:
        return getattr(import_module(f"{__name__}.{_ENGINE_HALVES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
