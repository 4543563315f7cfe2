"""The protocol of scorers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from sdbatch.diffusion.request import Request

__all__ = ["Score", "Scorer", "in_fixed_batches"]

Score = float | bool | str | None
Part = TypeVar("Part")
Found = TypeVar("Found")


class Scorer(ABC):
    """Scores finished pictures: a value for each of its declared columns.

    A score must depend only on the picture and its row, not on the other pictures of the call: it decides whether
    pictures are kept, and must be the same on every machine and after a resume.

    Attributes:
        batch: maximum number of pictures per call.
    """

    batch: int = 1

    @abstractmethod
    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        """The scores of some pictures, at most `batch`.

        Args:
            pictures: uint8 (height, width, 3), RGB.
            requests: the request of each picture.

        Returns:
            For each picture a value for every column; None for a missing value.
        """

    def describe(self) -> Mapping[str, Any]:
        """What its scores depend on besides the picture, as JSON values: versions, weights, device."""
        return {}


def in_fixed_batches(run: Callable[[list[Part]], Sequence[Found]], parts: Sequence[Part], batch: int) -> list[Found]:
    """Apply `run` to all parts with a fixed batch size, because networks round differently at other sizes.

    A short batch is padded with its first part.
    """
    found: list[Found] = []
    for start in range(0, len(parts), batch):
        some = list(parts[start : start + batch])
        found += list(run(some + some[:1] * (batch - len(some))))[: len(some)]
    return found
