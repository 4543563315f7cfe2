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
    """Decodes a row again in float32, and if that is not enough, also samples it again; once.

    Args:
        make_engine: creates an engine in float32; called for the first row that needs it, because it takes memory.
        make_room: called if there is not enough memory for it; returns whether it freed any.
        possible: False for an engine that is already in float32.
    """

    def __init__(self, make_engine: Callable[[], Sampler], make_room: Callable[[], bool], possible: bool):
        self._make_engine = make_engine
        self._make_room = make_room
        self._possible = possible
        self._engine: Sampler | None = None

    def pixels(self, decoded: Decoded, finish: Finish) -> tuple[np.ndarray | None, str | None]:
        """The pixels, uint8 (H, W, 3), of a row whose pixels were not finite, or None and the reason.

        Args:
            finish: converts the decoded picture to the result.
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
                return None, f"{NOT_FINITE}, and there is not enough memory to retry in float32"

    def close(self) -> bool:
        """Release the memory, until another row needs it; returns whether there was any."""
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
