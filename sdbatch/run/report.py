"""The report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sdbatch.output import ShardStats
from sdbatch.scoring.judged_engine import REJECTED

__all__ = ["RunReport"]


@dataclass
class RunReport:
    """The totals of a run over all finished shards of OUT: its own and earlier ones.

    Attributes:
        out: where the dataset is.
        shards, rows, images: of the finished shards; images = ok + failed.
        ok, failed: images that were made, and images that failed.
        reasons: how many images failed, by reason.
        mended_texts: carried texts that were not UTF-8; each invalid byte is replaced by U+FFFD.
        made: images (ok or failed) of this run; the others are of earlier runs.
        seconds: wall time of this run's work.
        totals: the workers' counters of this run, summed (`metrics.COUNTERS`; `seconds` is the sum of their times).
        engines: descriptions of the workers' engines: device, versions, results of their checks.
        findings: consequences of devices and libraries for the dataset: failed checks, workers that differ.
        price_per_hour: of one worker, if known.
    """

    out: str
    shards: int = 0
    rows: int = 0
    images: int = 0
    ok: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    mended_texts: int = 0
    made: int = 0
    seconds: float = 0.0
    totals: Mapping[str, float] = field(default_factory=dict)
    engines: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[str] = ()
    price_per_hour: float | None = None

    def add(self, stats: ShardStats) -> None:
        self.shards += 1
        self.rows += stats.rows
        self.images += stats.images
        self.ok += stats.ok
        self.failed += stats.failed
        self.reasons.update(stats.reasons)
        self.mended_texts += stats.mended_texts

    @property
    def exit_status(self) -> int:
        """0 if every row has its image, 1 if some failed."""
        return 1 if self.failed else 0

    @property
    def images_per_second(self) -> float | None:
        return _ratio(self.made, self.seconds)

    @property
    def lane_occupancy(self) -> float | None:
        """The share of the UNet's lanes that held a row."""
        return _ratio(self.totals.get("lane_calls_used", 0), self.totals.get("lane_calls", 0))

    @property
    def device_share(self) -> float | None:
        """The share of the workers' time in which their engines worked."""
        return _ratio(self.totals.get("model_seconds", 0), self.totals.get("seconds", 0))

    @property
    def cost_per_1000(self) -> float | None:
        """Price of a thousand images, in the unit of `price_per_hour`; workers cost money from start to end."""
        if self.price_per_hour is None:
            return None
        return _ratio(1000 * self.price_per_hour * self.totals.get("seconds", 0) / 3600, self.made)

    @property
    def rejected(self) -> dict[str, int]:
        """How many pictures were not kept, by the condition that they failed, most frequent first."""
        found = {
            name.removeprefix(REJECTED): int(count) for name, count in self.totals.items() if name.startswith(REJECTED)
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"reasons": dict(self.reasons), "totals": dict(self.totals)}
        derived = ("rejected", "images_per_second", "lane_occupancy", "device_share", "cost_per_1000")
        return values | {name: getattr(self, name) for name in derived}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
