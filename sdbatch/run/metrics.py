"""The metrics that each worker exports to Prometheus through Ray; docs/grafana-dashboard.json plots all of them."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util import metrics

__all__ = ["COUNTERS", "FAILURES", "GAUGES", "WorkerMetrics"]

# In Prometheus they are called ray_sdbatch_NAME, counters with the suffix _total, all with the tags WorkerId and node.
COUNTERS = {
    "images": "images made",
    "shards": "shards finished",
    "model_seconds": "seconds in the engine: text encoding, denoiser, VAE",
    "idle_seconds": "seconds without a row to work on",
    "write_seconds": "seconds that the engine waited for encoding and upload",
    "lane_calls": "calls of the denoiser times its lanes",
    "lane_calls_used": "the part of lane_calls in which the lane held a row",
    "halvings": "times that the lanes were halved because memory ran out",
}
GAUGES = {
    "lanes": "lanes of the engine",
    "lanes_used": "lanes that hold a row",
    "waiting_rows": "rows waiting for a lane",
    "unwritten": "images waiting to be encoded and written",
}
FAILURES = "failures"
# A reason may contain a number from the row; at most this many become separate series.
MAX_REASONS = 20
OTHER_REASONS = "other reasons"


class WorkerMetrics:
    """The metrics of one worker process. `publish` takes running totals and counts their increase."""

    def __init__(self, node: str) -> None:
        tags = {"node": node[:12]}
        self._counters = {n: metrics.Counter(f"sdbatch_{n}", text, ("node",)) for n, text in COUNTERS.items()}
        self._gauges = {n: metrics.Gauge(f"sdbatch_{n}", text, ("node",)) for n, text in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(tags)
        self._failures = metrics.Counter(f"sdbatch_{FAILURES}", "images that failed, by reason", ("node", "reason"))
        self._failures.set_default_tags(tags)
        self._reasons: set[str] = set()
        self._published = dict.fromkeys(COUNTERS, 0.0)

    def publish(self, totals: Mapping[str, float]) -> None:
        for name, counter in self._counters.items():
            grown = totals.get(name, 0) - self._published[name]
            if grown > 0:
                counter.inc(grown)
                self._published[name] += grown
        for name, gauge in self._gauges.items():
            gauge.set(totals.get(name, 0))

    def failed(self, reason: str) -> None:
        if len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
        self._failures.inc(tags={"reason": reason if reason in self._reasons else OTHER_REASONS})
