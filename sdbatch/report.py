"""What a run came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
        seconds: wall time of this run's work.
        totals: the workers' counters of this run, summed (`metrics.COUNTERS`; `seconds` is their time together).
        engines: how the workers' engines described themselves: device, versions, what their checks found.
        price_per_hour: of one worker, if it is known.
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
    totals: Mapping[str, float] = field(default_factory=dict)
    engines: Sequence[Mapping[str, Any]] = ()
    price_per_hour: float | None = None

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

    @property
    def images_per_second(self) -> float | None:
        return _ratio(self.made, self.seconds)

    @property
    def lane_occupancy(self) -> float | None:
        """Of the lanes that the UNet was called with, the share that held a row."""
        return _ratio(self.totals.get("lane_calls_used", 0), self.totals.get("lane_calls", 0))

    @property
    def device_share(self) -> float | None:
        """Of the time that workers were there, the share in which their engines worked."""
        return _ratio(self.totals.get("model_seconds", 0), self.totals.get("seconds", 0))

    @property
    def cost_per_1000(self) -> float | None:
        """Price of a thousand images, in the unit of `price_per_hour`: workers are paid for from start to end."""
        if self.price_per_hour is None:
            return None
        return _ratio(1000 * self.price_per_hour * self.totals.get("seconds", 0) / 3600, self.made)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"reasons": dict(self.reasons), "totals": dict(self.totals)}
        derived = ("images_per_second", "lane_occupancy", "device_share", "cost_per_1000")
        return values | {name: getattr(self, name) for name in derived}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
