"""The LoRAs of a row: files and weights. `Request.extra["lora"]` holds them, as text or as `Loras`."""

from __future__ import annotations

from dataclasses import dataclass

from sdbatch.diffusion.request import Request
from sdbatch.errors import AdapterError, UsageError
from sdbatch.fields import Field
from sdbatch.weighted_files import WeightedFiles

__all__ = ["LORA", "Lora", "Loras", "loras_of"]

LORA = Field(
    name="lora",
    kind=WeightedFiles(),
    help="LoRA files with weights, such as a.safetensors:0.8, several separated by semicolons",
    group="adapters",
    metavar="FILE[:W]",
    aliases=("loras",),
    types="text, lists of text, or lists of structs of path, weight and te_weight",
    null_text="the run's, or none",
    short="`a.safetensors:0.8;b.safetensors`: LoRAs with weights",
    notes="paths and weights; hashes in the same order",
)


@dataclass(frozen=True)
class Lora:
    """One file.

    Attributes:
        path: its path on this machine.
        weight: its weight in the denoiser.
        te_weight: its weight in the text encoders.
        sha256: the file's SHA-256; None if it has not been read.
    """

    path: str
    weight: float = 1.0
    te_weight: float = 1.0
    sha256: str | None = None


@dataclass(frozen=True)
class Loras:
    """All files of a row, in order.

    Attributes:
        text: the files and weights as written in the table.
        error: the reason why they are unavailable, or None.
        merged: whether they have been merged into the model's weights.
    """

    text: str
    files: tuple[Lora, ...]
    error: str | None = None
    merged: bool = False


def loras_of(request: Request) -> tuple[Lora, ...]:
    """The files to apply to a row; files named by text are on this machine.

    Raises:
        AdapterError: they are unavailable, or the text names no files.
    """
    given = request.extra.get("lora")
    if given is None:
        return ()
    if isinstance(given, Loras):
        if given.error is not None:
            raise AdapterError(given.error)
        return () if given.merged else given.files
    try:
        return tuple(Lora(*file) for file in WeightedFiles().files("lora", given))
    except UsageError as error:
        raise AdapterError(str(error)) from error
