"""Prompt syntax settings of Stable Diffusion's rows, and their checks. Imports no torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import NamedTuple

from sdbatch.bounds import Whole
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.syntax import emphasis
from sdbatch.diffusion.syntax.compel_refusals import SWAP, WITH_LORA
from sdbatch.errors import PromptError
from sdbatch.fields import Field
from sdbatch.kinds import Choice, Text

__all__ = ["TEXT_FIELDS", "XL_FIELDS", "Wording", "numbers_of_size", "refused_prompts", "refused_wording"]

GROUP = "prompts"
PLAIN, A1111, COMPEL = "plain", "a1111", "compel"
TRUNCATE, CHUNK = "truncate", "chunk"


def _missing(syntax: str) -> str | None:
    if syntax == COMPEL and find_spec("compel") is None:
        return "needs the package compel; install it with: pip install 'sdbatch[compel]'"
    return None


TEXT_FIELDS = (
    Field(
        name="prompt_syntax",
        kind=Choice((PLAIN, A1111, COMPEL)),
        default=PLAIN,
        before=PLAIN,
        help="syntax of weights: (word:1.3) and BREAK of a1111, word++ and .blend() of compel; plain has none",
        group=GROUP,
        check=_missing,
        short="`plain`, `a1111` or `compel`: the syntax of weights",
    ),
    Field(
        name="long_prompts",
        kind=Choice((CHUNK, TRUNCATE)),
        before=None,
        help="how to handle prompts longer than the text encoder's context; default: truncate with the "
        "syntax plain, chunk with the others",
        group=GROUP,
        short="`chunk` or `truncate`: prompts longer than the text encoder's context",
        null_text="`truncate` with the syntax plain, `chunk` with the others",
    ),
    Field(
        name="clip_skip",
        kind=Whole(0, 256),
        default=0,
        before=0,
        help="number of last text encoder layers to skip, as in diffusers, one less than in AUTOMATIC1111",
        group=GROUP,
        metavar="N",
        short="number of last text encoder layers to skip, as in diffusers",
    ),
)

# Of compel's syntax. compel's own parser finds more, but takes tens of milliseconds for each prompt.
WITHOUT_COMPEL = {
    re.compile(r"\bwithLora\s*\([^()]+\)"): WITH_LORA,
    re.compile(r"[\w\")]\s*\.swap\s*\([^()]*\)"): SWAP,
}
TWO_NUMBERS = re.compile(r"\s*[(\[]?\s*(\d{1,6})\s*[x,×]\s*(\d{1,6})\s*[)\]]?\s*")


def numbers_of_size(text: str) -> tuple[int, int] | None:
    """Parse "1024x768" as height and width, or top and left; None for any other text."""
    found = TWO_NUMBERS.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def _no_size(text: str) -> str | None:
    return None if numbers_of_size(text) else "expected two whole numbers, such as 1024x768"


def _canonical_size(text: str) -> str:
    numbers = numbers_of_size(text)
    return text if numbers is None else "{}x{}".format(*numbers)


def _second(name: str, help: str) -> Field:
    return Field(
        name=name, kind=Text(), before=None, help=help, group=GROUP, metavar="TEXT", short=help, null_text="the same"
    )


def _pair_of_numbers(name: str, help: str, metavar: str = "HxW") -> Field:
    return Field(
        name=name,
        kind=Text(pairs=True),
        before=None,
        help=help,
        group=GROUP,
        metavar=metavar,
        check=_no_size,
        canonical=_canonical_size,
        types=f"text: {metavar}, or lists of two whole numbers",
        null_text="the run's, or what the pipeline has",
        short=help,
    )


XL_FIELDS = (
    _second("prompt_2", "SDXL: prompt for the second text encoder; default: the prompt"),
    _second("negative_prompt_2", "SDXL: negative prompt for the second text encoder; default: the negative prompt"),
    _pair_of_numbers("original_size", "SDXL: size conditioning, the picture's original size; default: the row's"),
    _pair_of_numbers("target_size", "SDXL: size conditioning, the picture's target size; default: the row's"),
    _pair_of_numbers(
        "crops_coords_top_left", "SDXL: crop conditioning, top and left of the crop; default 0x0", metavar="YxX"
    ),
    _pair_of_numbers("negative_original_size", "SDXL: original_size of the unconditional pass"),
    _pair_of_numbers("negative_target_size", "SDXL: target_size of the unconditional pass"),
    _pair_of_numbers(
        "negative_crops_coords_top_left",
        "SDXL: crops_coords_top_left of the unconditional pass",
        metavar="YxX",
    ),
)
NEGATIVE_SIZES = ("negative_original_size", "negative_target_size")


class Wording(NamedTuple):
    """How a row's prompts are written.

    Attributes:
        syntax: plain, a1111 or compel.
        chunked: whether a long prompt is split into chunks; otherwise it is truncated.
        clip_skip: number of layers skipped at the end of the text encoders.
    """

    syntax: str
    chunked: bool
    clip_skip: int

    @classmethod
    def of(cls, request: Request) -> Wording:
        syntax = request.extra.get("prompt_syntax") or PLAIN
        long = request.extra.get("long_prompts") or (TRUNCATE if syntax == PLAIN else CHUNK)
        return cls(syntax, long == CHUNK, int(request.extra.get("clip_skip") or 0))


def refused_wording(request: Request, info: ModelInfo) -> str | None:
    """The reason why these settings can't be used, or None."""
    given = [name for name in NEGATIVE_SIZES if request.extra.get(name)]
    if len(given) == 1 or (request.extra.get("negative_crops_coords_top_left") and not given):
        return f"{' and '.join(NEGATIVE_SIZES)} are used together, or neither of them nor a negative crop"
    wording = Wording.of(request)
    if wording.clip_skip > info.text_layers:
        return f"clip_skip {wording.clip_skip} is more than the {info.text_layers} layers that can be skipped"
    return None


def refused_prompts(request: Request) -> str | None:
    """The reason why the row's prompts can't be encoded, found without compel or a tokenizer; None if there is none."""
    for name in ("prompt_2", "negative_prompt_2"):
        if any("\ud800" <= character <= "\udfff" for character in request.extra.get(name) or ""):
            return f"the {name} is not valid Unicode (a lone surrogate)"
    syntax = Wording.of(request).syntax
    for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2") if syntax != PLAIN else ():
        text = request.value(name) or ""
        if syntax == COMPEL:
            if found := next((reason for mark, reason in WITHOUT_COMPEL.items() if mark.search(text)), None):
                return f"{name}: {found}"
            continue
        try:
            emphasis.parse(text)
        except PromptError as error:
            return f"{name}: {error}"
        if reason := emphasis.unsupported(text, negative=name.startswith("negative")):
            return f"{name}: {reason}"
    return None
