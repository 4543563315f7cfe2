"""Turns the engine's result for a row into its metadata and its encoded picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.output.encoding import encode
from sdbatch.output.metadata import Outcome
from sdbatch.output.watermark import lack_of_room, watermarked
from sdbatch.prompts import Columns, PromptRow
from sdbatch.settings import COMPRESSIONS, RunSettings

__all__ = ["ModelLabel", "OutcomeMaker"]


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """The model as described in the output: its name, its hash, and its default size."""

    name: str
    hash: str | None
    height: int
    width: int


class OutcomeMaker:
    """Makes the outcomes of some rows of a table.

    Args:
        rows: the rows, parsed; `images_per_prompt` images each, numbered row by row.
        columns: the meaning of the table's columns.
        settings: the run's.
        model: the model's name, hash and size.
    """

    def __init__(self, rows: Sequence[PromptRow], columns: Columns, settings: RunSettings, model: ModelLabel) -> None:
        self._rows, self._columns, self._settings, self._model = rows, columns, settings, model

    def outcome(self, index: int, image: GeneratedImage) -> tuple[Outcome, bytes | None]:
        """The outcome of image `index`, made or failed, and its encoded picture; None of one that failed."""
        if image.pixels is None:
            return self._failed(index, image), None
        height, width = image.pixels.shape[:2]
        if reason := lack_of_room(height, width, self._settings.watermark):
            return self._failed(index, replace(image, pixels=None, error=reason)), None
        return self._made(image, image.pixels)

    def row_of(self, index: int) -> PromptRow:
        """The row of image `index`."""
        return self._rows[index // self._settings.images_per_prompt]

    def _made(self, image: GeneratedImage, pixels: np.ndarray) -> tuple[Outcome, bytes]:
        height, width = pixels.shape[:2]
        request = replace(image.request, height=height, width=width)
        fields = self._columns.fields
        row = Outcome(request).row(self._model.name, fields, self._columns.networks) | {"model_hash": self._model.hash}
        form = self._settings.image_format, self._settings.image_quality, self._settings.compression or COMPRESSIONS[0]
        data = encode(watermarked(pixels, self._settings.watermark), *form, row, fields)
        digest = hashlib.sha256(data).hexdigest()
        return Outcome(request, None, digest, image.prompt_tokens, image.prompt_truncated, self._judged(image)), data

    def _failed(self, index: int, image: GeneratedImage) -> Outcome:
        request = self._sized(image.request, self.row_of(index).unread)
        error = image.error or "the engine made no picture"
        return Outcome(request, error, prompt_tokens=image.prompt_tokens or None, judged=self._judged(image))

    def _judged(self, image: GeneratedImage) -> dict[str, Any]:
        found = {"attempt": image.attempt, "accepted": image.accepted, **image.scores}
        return {name: found.get(name) for name in self._columns.judged}

    def _sized(self, request: Request, unread: frozenset[str]) -> Request:
        own: dict[str, Any] = {"height": self._model.height, "width": self._model.width}
        left_open = {name for name in own if getattr(request, name) is None and name not in unread}
        return replace(request, **{name: own[name] for name in left_open})
