"""What became of a shard: the content of its marker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sdbatch.errors import StorageError

__all__ = ["ShardStats", "count_reasons"]

MOST_REASONS = 100
OTHER_REASONS = "other reasons"


@dataclass(frozen=True)
class ShardStats:
    """Counts of a finished shard. Beside these, `seconds` and `notes` are all that may differ between equal
    runs.

    Attributes:
        shard: its number.
        rows: rows of the prompt table.
        images: rows times images per prompt; always ok + failed.
        ok, failed: images that were made, and that were not.
        reasons: why images failed, and how many for each reason.
        seconds: from when the shard was taken up to when it was written.
        notes: what is worth knowing about how it was made (lanes halved for want of memory, …).
    """

    shard: int
    rows: int
    images: int
    ok: int
    failed: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> ShardStats:
        """The marker `name`, read. Raises `StorageError` if it is damaged."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as exc:
            raise StorageError(f"{name} is damaged; remove it, and the next run makes its shard again") from exc


def count_reasons(errors: Iterable[str]) -> dict[str, int]:
    """How many failures each reason explains, most frequent first; those beyond 100 are lumped together."""
    counted = sorted(Counter(errors).items(), key=lambda item: (-item[1], item[0]))
    kept = dict(counted[:MOST_REASONS])
    if rest := sum(count for _, count in counted[MOST_REASONS:]):
        kept[OTHER_REASONS] = rest
    return kept
