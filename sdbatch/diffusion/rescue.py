"""A second try in float32 for rows that overflowed in half precision."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdbatch.diffusion.decoding import Decoded, Decoder

if TYPE_CHECKING:
    from sdbatch.diffusion.engine import Engine

__all__ = ["Rescue"]

NOT_FINITE = "the picture has values that are not finite"


class Rescue:
    """Decodes, and if that is not enough samples, a row again in float32, once.

    Args:
        make_engine: gives an engine in float32; called when the first row needs it, for it takes memory.
        possible: False for an engine that is in float32 already and would only repeat itself.
    """

    def __init__(self, make_engine: Callable[[], Engine], possible: bool):
        self._make_engine = make_engine
        self._possible = possible
        self._engine: Engine | None = None

    def pixels(self, decoded: Decoded) -> tuple[np.ndarray | None, str | None]:
        """uint8 (H, W, 3) of a row whose pixels were not finite, or None and the reason."""
        if not self._possible:
            return None, NOT_FINITE
        try:
            return self._again(decoded)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            self.close()
            return None, f"{NOT_FINITE}, and there is no memory to try again in float32"

    def close(self) -> None:
        """Give the memory back; another row that needs it takes it again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _again(self, decoded: Decoded) -> tuple[np.ndarray | None, str | None]:
        if self._engine is None:
            self._engine = self._make_engine()
        decoder = Decoder(self._engine.family, batch=2)
        decoder.add(decoded.row, decoded.latents)
        (again,) = decoder.poll(flush=True)
        if again.pixels is not None:
            return again.pixels, None
        (image,) = self._engine.generate([decoded.row.request])
        return image.pixels, image.error and f"{image.error}, in float32 too"
