"""Perceptual hashes, which find near-duplicates by grouping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from sdbatch.diffusion.request import Request
from sdbatch.errors import UsageError
from sdbatch.scoring.scorer import Score, Scorer

__all__ = ["PerceptualHash"]


class PerceptualHash(Scorer):
    """The 64-bit pHash of `imagehash` as 16 hexadecimal digits.

    Raises:
        UsageError: imagehash is not installed.
    """

    def __init__(self) -> None:
        try:
            import imagehash
        except ImportError as exc:
            raise UsageError("scorer phash needs imagehash: pip install 'sdbatch[scoring]'") from exc
        self._hash = imagehash.phash
        self._version = imagehash.__version__

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [{"phash": str(self._hash(Image.fromarray(picture)))} for picture in pictures]

    def describe(self) -> Mapping[str, str]:
        return {"imagehash": self._version}
