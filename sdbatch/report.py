"""What a run came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from sdbatch.output import ShardStats

__all__ = ["RunReport"]


@dataclass
class RunReport:
    """The sums of a run, over all shards of OUT that this run saw finished: its own and earlier ones.

    Attributes:
        out: where the dataset is.
        shards, rows, images: of the finished shards; images = ok + failed.
        ok, failed: images that are there, and images that have a reason instead.
        reasons: how many images failed, by reason.
        made: images (ok or failed) that this very run made; the rest was there before.
        seconds: wall time of this run from the first worker's start.
    """

    out: str
    shards: int = 0
    rows: int = 0
    images: int = 0
    ok: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    made: int = 0
    seconds: float = 0.0

    def add(self, stats: ShardStats) -> None:
        self.shards += 1
        self.rows += stats.rows
        self.images += stats.images
        self.ok += stats.ok
        self.failed += stats.failed
        self.reasons.update(stats.reasons)

    @property
    def exit_status(self) -> int:
        """0 if every row has its image, 1 if some failed."""
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": dict(self.reasons)}
