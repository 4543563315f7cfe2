"""Retries rows in float32 that overflowed in half precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from sdbatch.diffusion.decoding import Decoded, Decoder
from sdbatch.diffusion.device.memory import forget, is_out_of_memory
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.request import GeneratedImage, Request

__all__ = ["Rescue"]

Finish = Callable[[np.ndarray], tuple[np.ndarray | None, str | None]]

NOT_FINITE = "the picture has values that are not finite"


class Sampler(Protocol):
    """The part of an engine that a rescue uses."""

    family: Family

    def generate(self, requests: Iterable[Request]) -> list[GeneratedImage]: ...

    def close(self) -> None: ...


class Rescue:
    """Decodes, and if that is not enough samples, a row again in float32, once.

    Args:
        make_engine: gives an engine in float32; called when the first row needs it, for it takes memory.
        make_room: called when there is no memory for it; says whether it gave any back.
        possible: False for an engine that is in float32 already and would only repeat itself.
    """

    def __init__(self, make_engine: Callable[[], Sampler], make_room: Callable[[], bool], possible: bool):
        self._make_engine = make_engine
        self._make_room = make_room
        self._possible = possible
        self._engine: Sampler | None = None

    def pixels(self, decoded: Decoded, finish: Finish) -> tuple[np.ndarray | None, str | None]:
        """uint8 (H, W, 3) of a row whose pixels were not finite, or None and the reason.

        Args:
            finish: makes what comes out of what was decoded.
        """
        if not self._possible:
            return None, NOT_FINITE
        while True:
            try:
                return self._again(decoded, finish)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                forget(error)
                self.close()
            if not self._make_room():
                return None, f"{NOT_FINITE}, and there is no memory to try again in float32"

    def close(self) -> bool:
        """Give the memory back; another row that needs it takes it again. False if there was none."""
        if self._engine is None:
            return False
        self._engine.close()
        self._engine = None
        return True

    def _again(self, decoded: Decoded, finish: Finish) -> tuple[np.ndarray | None, str | None]:
        if self._engine is None:
            self._engine = self._make_engine()
        decoder = Decoder(self._engine.family, batch=2)
        decoder.add(decoded.row, decoded.latents)
        (again,) = decoder.poll(flush=True)
        if again.pixels is not None:
            return finish(again.pixels)
        (image,) = self._engine.generate([decoded.row.request])
        return image.pixels, image.error and f"{image.error}, in float32 too"
