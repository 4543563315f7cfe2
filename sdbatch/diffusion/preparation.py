"""How an engine runs its model, and the model's networks made ready for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sdbatch.diffusion.accelerate.quantization import QUANTIZERS
from sdbatch.diffusion.adapters.lora_names import DENOISERS
from sdbatch.diffusion.adapters.lora_rows import Lora
from sdbatch.diffusion.adapters.net_kinds import NET_KINDS
from sdbatch.diffusion.adapters.net_loading import row_nets
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.device.spare_memory import spare_bytes
from sdbatch.diffusion.engine_choices import COMPILES, SWITCHES
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.models.loading import load_family
from sdbatch.errors import UsageError

__all__ = ["Options", "prepared_family"]

CHOICES = {"compile": COMPILES, "release_text_encoders": SWITCHES}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of an `Engine` that decide how its model runs.

    Raises:
        UsageError: a value that no engine takes.
    """

    compile: str
    compile_sizes: str
    quantization: str
    deep_cache: int
    release_text_encoders: str
    merged: tuple[Lora, ...]
    find_adapter: Callable[[str], Path] | None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (choice := getattr(self, name)) not in choices:
                raise UsageError(f"{name} {choice!r}: expected one of {', '.join(choices)}")
        if self.deep_cache < 1:
            raise UsageError(f"deep_cache must be at least 1, not {self.deep_cache}")
        if self.compile_sizes and self.compile == "off":
            raise UsageError("compile_sizes: nothing is compiled with compile='off'")


def prepared_family(info: ModelInfo, dtype: str, device: torch.device, options: Options) -> Family:
    """The loaded family, with LoRAs merged, weights quantised and whatever its rows may name.

    Args:
        options: with "on" or "off" for `release_text_encoders`.

    Raises:
        ModelError: the model can't be read.
        RunError: it does not fit into the device's memory.
    """
    released, quantised = options.release_text_encoders == "on", options.quantization != "none"
    # What will not stay whole on the device never has to fit there.
    staged = {
        part.name: torch.device("cpu")
        for part in family_named(info.family).parts
        if (released and part.sort == "text_encoder") or (quantised and part.name in DENOISERS)
    }
    family = load_family(info, dtype, device, options.merged, staged)
    if quantised:
        QUANTIZERS[options.quantization](family.denoiser, family.keep_whole(), device)
    if released:
        family.release_text_encoders()
    skips = options.deep_cache > 1
    if any(field.name in NET_KINDS for field in family_named(info.family).fields):
        spare = partial(spare_bytes, device)
        family.nets = row_nets(info, family.denoiser, spare, options.find_adapter, skips_layers=skips)
    if skips:
        family.cache_deep_features()
    return family
