"""Prompt following of the packaged model `tiny`, read back from the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from sdbatch.diffusion.request import Request
from sdbatch.scoring.scorer import Score, Scorer
from sdbatch.tiny.reader import read
from sdbatch.tiny.scenes import PIXELS
from sdbatch.tiny.wording import obeyed

__all__ = ["Obedience"]


class Obedience(Scorer):
    """The share, 0 to 1, of the things named in the prompt that the picture shows; null if the prompt names none.

    Only for pictures of `tiny`: one or two flat shapes on a plain background.
    """

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [{"obedience": self._share(*pair)} for pair in zip(pictures, requests, strict=True)]

    def _share(self, picture: np.ndarray, request: Request) -> float | None:
        if picture.shape[:2] != (PIXELS, PIXELS):
            picture = np.asarray(Image.fromarray(picture).resize((PIXELS, PIXELS), Image.Resampling.BOX))
        return obeyed(request.prompt, read(picture))
