"""Decides whether a picture is kept, replaced by another attempt, or given up. Only policy: no pixels, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sdbatch.errors import UsageError
from sdbatch.scoring.expressions import Expression, Kind

__all__ = ["ON_EXHAUSTED", "ON_NSFW", "KeepPolicy", "attempt_seed", "expected_attempts"]

ON_EXHAUSTED = ("best", "fail")
ON_NSFW = ("keep", "drop", "blur")


@dataclass(frozen=True)
class KeepPolicy:
    """The condition for keeping a picture, and what happens if it is not met.

    Attributes:
        keep: the condition; None keeps every picture.
        attempts: maximum number of pictures made for a row.
        best: the score that selects the best attempt of an exhausted row; None selects the last one.
        best_is_low: whether lower scores are better.
        on_exhausted: "best" keeps the best picture and marks it as not accepted; "fail" fails the row.
    """

    keep: Expression | None = None
    attempts: int = 1
    best: str | None = None
    best_is_low: bool = False
    on_exhausted: str = "best"

    @classmethod
    def parse(
        cls,
        keep: str | None,
        attempts: int,
        best: str | None,
        on_exhausted: str,
        scores: Mapping[str, Kind],
        others: Mapping[str, Kind],
    ) -> KeepPolicy:
        """The policy that these options describe.

        Args:
            scores, others: the columns that scorers fill, and the row's other columns.

        Raises:
            UsageError: an invalid condition or name, or attempts without a condition.
        """
        if keep is None:
            if attempts > 1:
                raise UsageError(f"--attempts {attempts}: needs --keep, the condition for a picture to be good enough")
            if best is not None:
                raise UsageError(f"--best {best}: needs --keep and --attempts")
            return cls()
        expression = Expression.parse(keep, {**others, **scores}, "--keep")
        numbers = [name for name in expression.names if scores.get(name) == "number"]
        if best is None:
            best = numbers[0] if numbers else None
        elif scores.get(best) != "number":
            known = ", ".join(name for name, kind in scores.items() if kind == "number") or "none"
            raise UsageError(f"--best {best}: is not a numeric score of this run; these are: {known}")
        low = best is not None and expression.prefers_low(best)
        return cls(expression, attempts, best, low, on_exhausted)

    @property
    def condition(self) -> str:
        """The text of `keep`; empty if there is none."""
        return "" if self.keep is None else self.keep.text

    def is_better(self, scores: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether a later attempt's scores beat an earlier one's; the earlier one wins a tie."""
        if self.best is None:
            return True
        value, than = scores.get(self.best), other.get(self.best)
        if value is None or than is None:
            return than is None and value is not None
        return value < than if self.best_is_low else value > than


def expected_attempts(acceptance: float, attempts: int) -> float:
    """Average number of pictures per row, if each is kept independently with the same probability.

    The mean of a truncated geometric distribution: Σ (1 − p)^k for k = 0 … attempts − 1.
    """
    return (1 - (1 - acceptance) ** attempts) / acceptance


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of a row's attempt: the row's for the first one, then a 32-bit hash of that and the attempt's number.

    Not the next integer, which is the seed of the row's next image.
    """
    if attempt == 1:
        return seed
    return int.from_bytes(blake2b(f"{seed}/attempt {attempt}".encode(), digest_size=4).digest(), "big")
