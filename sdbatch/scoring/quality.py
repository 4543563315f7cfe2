"""Scores that detect blank and blurred pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from sdbatch.diffusion.request import Request
from sdbatch.scoring.scorer import Score, Scorer

__all__ = ["Entropy", "Sharpness"]


class Sharpness(Scorer):
    """Variance of the Laplacian of the luminance (Pech-Pacheco et al. 2000), as usually computed with OpenCV."""

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [{"sharpness": laplacian_variance(picture)} for picture in pictures]


class Entropy(Scorer):
    """Shannon entropy of the luminance's histogram in bits: 0 for a single flat colour, at most 8."""

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [{"entropy": Image.fromarray(picture).convert("L").entropy()} for picture in pictures]


def laplacian_variance(picture: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian over the inner pixels of an RGB picture, uint8 (H, W, 3)."""
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float64)
    inside = grey[1:-1, 1:-1]
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((neighbours - 4 * inside).var())
