"""Everything a run can be told, in one frozen record, checked once at the edge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdbatch.errors import UsageError

__all__ = ["DEVICES", "DTYPES", "IMAGE_FORMATS", "LAYOUTS", "QUANTIZATIONS", "SWITCHES", "RunSettings"]

LAYOUTS = ("files", "parquet", "webdataset")
IMAGE_FORMATS = ("png", "jpeg", "webp")
DTYPES = ("auto", "fp16", "bf16", "fp32")
DEVICES = ("auto", "cpu", "cuda")
SWITCHES = ("auto", "on", "off")
QUANTIZATIONS = ("none", "int8")
MAX_IMAGES_A_SHARD = 10_000


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of one run. Field names are the command line's options, with underscores.

    The second block holds the defaults of what a row may override through a column of the same name.

    Raises:
        UsageError: a value that no run can have; the message names the option.
    """

    model: str = "tiny"
    revision: str | None = None
    variant: str | None = None

    sampler: str = "ddpm"
    steps: int = 50
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    seed: int = 0

    images_per_prompt: int = 1
    layout: str = "files"
    image_format: str = "png"
    image_quality: int | None = None
    column: Mapping[str, str] = field(default_factory=dict)
    part: tuple[int, int] = (1, 1)
    shard_size: int | None = None

    actors: tuple[int, int] | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: float | None = None
    lanes: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    compile: str = "auto"
    quantization: str | None = None
    deep_cache: int | None = None

    address: str | None = None
    start_timeout: float = 1800.0
    stall_timeout: float = 1200.0
    price_per_hour: float | None = None
    overwrite: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("image-format", self.image_format, IMAGE_FORMATS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("device", self.device, DEVICES)
        _one_of("compile", self.compile, SWITCHES)
        if self.quantization is not None:
            _one_of("quantization", self.quantization, QUANTIZATIONS)
        _at_least("steps", self.steps, 1)
        _at_least("images-per-prompt", self.images_per_prompt, 1)
        _at_least("seed", self.seed, 0)
        for name in ("height", "width", "shard_size"):
            _at_least(name, getattr(self, name), 1)
        _at_least("lanes", self.lanes, 2)
        _at_least("deep_cache", self.deep_cache, 1)
        for name in ("start_timeout", "stall_timeout"):
            _at_least(name, getattr(self, name), 1)
        _at_least("price_per_hour", self.price_per_hour, 0)
        if not math.isfinite(self.guidance_scale):
            raise UsageError(f"--guidance-scale {self.guidance_scale} is not a finite number")
        if not 0 <= self.guidance_start < self.guidance_stop <= 1:
            interval = f"--guidance-start {self.guidance_start} --guidance-stop {self.guidance_stop}"
            raise UsageError(f"{interval}: wanted two shares, 0 ≤ start < stop ≤ 1")
        if self.images_per_prompt > MAX_IMAGES_A_SHARD:
            raise UsageError(f"--images-per-prompt {self.images_per_prompt}: at most {MAX_IMAGES_A_SHARD:,}")
        if self.shard_size is not None and self.shard_size > MAX_IMAGES_A_SHARD:
            raise UsageError(f"--shard-size {self.shard_size}: a shard has at most {MAX_IMAGES_A_SHARD:,} images")
        if self.image_quality is not None and not 1 <= self.image_quality <= 100:
            raise UsageError(f"--image-quality {self.image_quality} is not between 1 and 100")
        part, parts = self.part
        if not 1 <= part <= parts:
            raise UsageError(f"--part {part}/{parts}: wanted I/N with 1 ≤ I ≤ N")
        if self.actors is not None and not 1 <= self.actors[0] <= self.actors[1]:
            raise UsageError(f"--actors {self.actors[0]}:{self.actors[1]}: wanted N or MIN:MAX with 1 ≤ MIN ≤ MAX")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> RunSettings:
        """Settings from a mapping (keyword arguments, a config file); unknown names raise `UsageError`."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise UsageError(f"unknown option {unknown[0]!r}; known options: {', '.join(sorted(known))}")
        return cls(**options)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"--{name} {value!r} is none of: {', '.join(allowed)}")


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
