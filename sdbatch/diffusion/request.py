"""The engine's input and output: `Request` and `GeneratedImage`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from sdbatch.bounds import MAX_INT64, Number, Whole
from sdbatch.diffusion.samplers.catalogue import canonical, label
from sdbatch.fields import UNRECORDED, Field, FrozenMapping, declared_in, with_plain_signature
from sdbatch.kinds import Seed, Text

__all__ = ["COMMON", "FIRST_FIELDS", "ROW_FIELDS", "TEXT_TO_IMAGE", "GeneratedImage", "Request"]

TEXT_TO_IMAGE = "text-to-image"
MAX_SIDE = 65_535  # JPEG's maximum
ROWS = "defaults for rows"
# Validation of each row rejects numbers that are too large for the model, with a better message.
ANY_WHOLE = Whole(1, MAX_INT64)


@with_plain_signature
@dataclass(frozen=True, slots=True)
class Request:
    """One image to generate. Field names are those of the prompt table's columns.

    Args:
        prompt: text; tokens beyond the text encoder's context are truncated, as in diffusers.
        negative_prompt: text that guidance steers away from; empty for none.
        seed: seed of the CPU generator that draws the initial latents and every step's noise; 0 ≤ seed < 2**64.
        sampler: a name or alias from `sdbatch.diffusion.samplers.catalogue`.
        steps: `num_inference_steps` of the diffusers scheduler.
        guidance_scale: classifier-free guidance (Ho & Salimans 2022); 1 or less means none.
        height, width: pixels; None is the model's own size.
        guidance_rescale: φ of Lin et al. 2023, reduces the contrast that guidance adds; 0 is off.
        guidance_start, guidance_stop: guidance is on only between the two (limited-interval guidance,
            Kynkäänniemi et al. 2024), as shares of the calls of the model; the same as in diffusers' guiders.
        task: the kind of row, a name from `sdbatch.diffusion.tasks`.
        extra: settings that only this task or the model's family has, by name.
    """

    # Tables have relied on the exact aliases since the first version. The others are the names of diffusers,
    # AUTOMATIC1111, ComfyUI, InvokeAI and DiffusionDB. DiffusionDB's one-letter keys (p, se, st, …) are not here:
    # its images' JSON is no table, and p may be anything.
    prompt: Annotated[
        str,
        Field(
            kind=Text(),
            aliases=("positive_prompt",),
            resembling=("positive",),
            null_text="the row fails: `prompt is empty`",
            short="text; any other column with `--column prompt=NAME`",
        ),
    ]
    negative_prompt: Annotated[
        str,
        Field(
            kind=Text(),
            help="what guidance steers away from; default: none",
            group=ROWS,
            metavar="TEXT",
            resembling=("negative", "neg_prompt"),
            null="",
            null_text="none",
            short="null or empty: none",
        ),
    ] = ""
    seed: Annotated[
        int,
        Field(
            kind=Seed(),
            help="rows without a seed derive one from this and their position",
            group=ROWS,
            metavar="S",
            aliases=("noise_seed",),
            null_text="from `--seed` and the row's position (file, row); −1 does the same",
            types="whole numbers from 0, less than 2⁶⁴",
            parameter="Seed",
            short="null or -1: from `--seed` and the row's position",
            notes="as used; int64 in outputs of sdbatch 0.1.0",
        ),
    ] = 0
    sampler: Annotated[
        str,
        Field(
            kind=Text(codes=True),
            help="sampler, such as ddim, euler_a, dpmpp_2m or flow_euler",
            group=ROWS,
            metavar="NAME",
            aliases=("sampler_name", "sampler_index", "sampling_method"),
            # InvokeAI's name for the sampler. ComfyUI and AUTOMATIC1111 use it for the spacing of noise levels, and
            # have the sampler in another column.
            last_aliases=("scheduler",),
            resembling=("scheduler",),
            canonical=canonical,
            types="text, or DiffusionDB's codes",
            parameter="Sampler",
            short="`ddpm`, `ddim`, `euler`, `euler_a`, `dpmpp_2m`, `pndm`, …",
            notes="its canonical name, also if the table had an alias",
            shown=label,
        ),
    ] = "ddpm"
    steps: Annotated[
        int,
        Field(
            kind=Whole(1, 1_000_000),
            cell=ANY_WHOLE,
            help="number of sampling steps",
            group=ROWS,
            metavar="N",
            exact_aliases=("num_inference_steps", "step"),
            aliases=("sampling_steps",),
            parameter="Steps",
            notes="as used",
        ),
    ] = 50
    guidance_scale: Annotated[
        float,
        Field(
            kind=Number(-1_000_000, 1_000_000),
            cell=Number(-math.inf, math.inf),
            help="classifier-free guidance; 1 or less: none",
            group=ROWS,
            metavar="G",
            exact_aliases=("cfg",),
            aliases=("cfg_scale",),
            resembling=("guidance",),
            parameter="CFG scale",
            short="1 or less: none",
        ),
    ] = 7.5
    height: Annotated[
        int | None,
        Field(
            kind=Whole(1, MAX_SIDE),
            cell=ANY_WHOLE,
            help="pixels; default: the model's own",
            group=ROWS,
            metavar="H",
            null_text="the run's, or the model's own",
            short="pixels, a multiple of 8",
            notes="as used",
        ),
    ] = None
    width: Annotated[
        int | None,
        Field(
            kind=Whole(1, MAX_SIDE),
            cell=ANY_WHOLE,
            help="pixels; default: the model's own",
            group=ROWS,
            metavar="W",
            null_text="the run's, or the model's own",
            short="pixels, a multiple of 8",
            notes="as used",
        ),
    ] = None
    guidance_rescale: Annotated[
        float,
        Field(
            kind=Number(0, 1),
            help="0 to 1, reduces the contrast that guidance adds (Lin et al. 2023)",
            short="0 to 1: reduces the contrast that guidance adds",
            group=ROWS,
            metavar="F",
            aliases=("cfg_rescale_multiplier",),
            before=0.0,
        ),
    ] = 0.0
    guidance_start: Annotated[
        float,
        Field(
            kind=Number(0, 1),
            help="guidance starts at this share of the calls, 0 to 1",
            short="guidance starts at this share of the calls, 0 to 1",
            group=ROWS,
            metavar="F",
            before=0.0,
        ),
    ] = 0.0
    guidance_stop: Annotated[
        float,
        Field(
            kind=Number(0, 1),
            help="guidance stops at this share of the calls: faster, changes the picture",
            short="guidance stops at this share of the calls: faster",
            group=ROWS,
            metavar="F",
            before=1.0,
        ),
    ] = 1.0
    task: str = TEXT_TO_IMAGE
    extra: Mapping[str, Any] = FrozenMapping()

    def __post_init__(self) -> None:
        if not isinstance(self.extra, FrozenMapping):
            object.__setattr__(self, "extra", FrozenMapping(self.extra))

    def value(self, name: str) -> Any:
        """The setting of that name, also from `extra`; None if this row does not have it."""
        return getattr(self, name) if name in COMMON else self.extra.get(name)


ROW_FIELDS = declared_in(Request)
"""The settings that every row has, in the order of the metadata's columns."""
FIRST_FIELDS = tuple(field for field in ROW_FIELDS if field.before is UNRECORDED)
"""The common settings that every output's metadata has, including outputs of old versions."""
COMMON = frozenset(field.name for field in ROW_FIELDS)
"""Their names."""


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """The outcome of one request: pixels, or the reason of failure.

    Attributes:
        request: the submitted object itself.
        index: the request's place in the order of submission, from 0.
        pixels: uint8 array (height, width, 3), RGB; None if the row failed.
        error: None, or why the row failed, in one line.
        prompt_tokens: tokens of the prompt, special tokens included, before truncation.
        prompt_truncated: whether the prompt was longer than the text encoder's context.
        attempt: number of the attempt at this row, from 1, if rows are retried.
        accepted: whether the picture meets the condition; None if there is none.
        scores: results of the scorers, by column.
    """

    request: Request
    index: int
    pixels: np.ndarray | None
    error: str | None = None
    prompt_tokens: int = 0
    prompt_truncated: bool = False
    attempt: int = 1
    accepted: bool | None = None
    scores: Mapping[str, float | bool | str | None] = field(default_factory=dict)
