"""Kinds of models. What is particular to a model stands here; engine, lanes and slots know none of it.

declaration.py     what a family says of itself, without torch
base.py            what a family is to the engine
NAME_family.py     a family's declaration
NAME.py            its engine half

The engine halves are imported when they are named, since they bring in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from sdbatch.diffusion.families.declaration import Declaration
from sdbatch.diffusion.families.flux_2_klein_family import Flux2KleinFamily
from sdbatch.diffusion.families.flux_family import FluxFamily
from sdbatch.diffusion.families.picture_families import DepthFamily, UpscalerFamily, VariationFamily
from sdbatch.diffusion.families.pixart_sigma_family import PixArtSigmaFamily
from sdbatch.diffusion.families.qwen_image_family import QwenImageFamily
from sdbatch.diffusion.families.refiner_family import RefinerFamily
from sdbatch.diffusion.families.sana_family import SanaFamily
from sdbatch.diffusion.families.stable_diffusion_3_family import StableDiffusion3Family
from sdbatch.diffusion.families.stable_diffusion_family import StableDiffusionFamily, StableDiffusionXLFamily
from sdbatch.diffusion.families.z_image_family import ZImageFamily
from sdbatch.errors import ModelError

__all__ = ["ENTRY_POINTS", "FAMILIES", "brought", "family_named", "family_of_pipeline", "pipelines"]

FAMILIES: list[Declaration] = [
    StableDiffusionFamily(),
    StableDiffusionXLFamily(),
    RefinerFamily(),
    DepthFamily(),
    UpscalerFamily(),
    VariationFamily(),
    StableDiffusion3Family(),
    FluxFamily(),
    Flux2KleinFamily(),
    ZImageFamily(),
    QwenImageFamily(),
    PixArtSigmaFamily(),
    SanaFamily(),
]

# A package of its own may bring families: objects of this group are subclasses of `Declaration`.
ENTRY_POINTS = "sdbatch.families"

_ENGINE_HALVES = {
    "Components": "components",
    "Family": "family",
    "StableDiffusion": "stable_diffusion",
    "StableDiffusionXL": "stable_diffusion_xl",
}


def family_named(name: str) -> Declaration:
    """The family of that name. Raises `ModelError` where this installation has none."""
    found = _first(lambda family: family.name == name)
    if found is None:
        raise ModelError(f"this installation has no family {name!r} of models")
    return found


def family_of_pipeline(pipeline: object) -> Declaration | None:
    """The family that makes the pictures of one of diffusers' pipeline classes, if there is one."""
    return _first(lambda family: pipeline in family.pipelines)


def pipelines() -> list[str]:
    """The pipeline classes whose pictures the engine makes."""
    return [pipeline for family in FAMILIES for pipeline in family.pipelines]


def _first(fits: Callable[[Declaration], bool]) -> Declaration | None:
    """Our own families go before those of other packages, which are looked for only where none of ours fits."""
    return next(filter(fits, FAMILIES), None) or next(filter(fits, brought()), None)


@cache
def brought() -> tuple[Declaration, ...]:
    """What other packages bring."""
    return tuple(entry.load()() for entry in entry_points(group=ENTRY_POINTS))


def __getattr__(name: str):
    if name in _ENGINE_HALVES:
        return getattr(import_module(f"{__name__}.{_ENGINE_HALVES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
