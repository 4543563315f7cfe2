"""What a scorer is."""

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
    """Looks at finished pictures and gives each a value in every column that was declared for it.

    A score may depend on the picture and its row alone, not on what else is looked at in the same call: decisions rest
    on it, and must be the same on every machine of a fleet, and after a resume.

    Attributes:
        batch: how many pictures are worth one call.
    """

    batch: int = 1

    @abstractmethod
    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        """The scores of some pictures, at most `batch`.

        Args:
            pictures: uint8 (height, width, 3), RGB.
            requests: of each, the request that it was made for.

        Returns:
            For each picture a value in every column; None where it has none.
        """

    def describe(self) -> Mapping[str, Any]:
        """What its scores depend on besides the picture: versions, weights, device; JSON-able."""
        return {}


def in_fixed_batches(run: Callable[[list[Part]], Sequence[Found]], parts: Sequence[Part], batch: int) -> list[Found]:
    """`run` over all parts at one batch size alone, since networks round otherwise at another.

    A short batch is filled with its own first part.
    """
    found: list[Found] = []
    for start in range(0, len(parts), batch):
        some = list(parts[start : start + batch])
        found += list(run(some + some[:1] * (batch - len(some))))[: len(some)]
    return found
