"""Telling people how a run goes: one line that updates in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from sdbatch.capacity import PoolSize
from sdbatch.coordinator import Snapshot
from sdbatch.errors import SdbatchError
from sdbatch.plan import Plan
from sdbatch.report import RunReport

__all__ = ["ProgressLine", "duration"]

PLAIN_SECONDS = 15.0
WAITING_SECONDS = 60.0
SPEED_WINDOW_SECONDS = 60.0


class ProgressLine:
    """Implements `pipeline.Progress` on a text stream; what the run came to goes to `results`."""

    def __init__(self, stream: TextIO, results: TextIO) -> None:
        self._stream = stream
        self._results = results
        self._in_place = stream.isatty()
        self._images = 0
        self._before = 0
        self._seen: list[tuple[float, float]] = []
        self._said: set[str] = set()
        self._last_plain = 0.0
        self._last_done = 0.0
        self._last_waiting = -WAITING_SECONDS

    def begin(self, plan: Plan, engine: Mapping[str, Any], pool: PoolSize) -> None:
        per_row = plan.record.settings["images_per_prompt"]
        self._images = sum(shard.rows for shard in plan.todo) * per_row
        finished = len(plan.shards) - len(plan.todo)
        resumed = f" ({finished:,} of {len(plan.shards):,} shards are elsewhere or done)" if finished else ""
        workers = f"{pool.least}" if pool.fixed else f"{pool.least} to {pool.most}"
        lanes = engine["lanes"] or "measured"
        self._write(
            f"{self._images:,} images in {len(plan.todo):,} shards{resumed}\n"
            f"model {plan.model.name}, {workers} worker{'s' * (workers != '1')} on {engine['device']}, "
            f"{engine['dtype']}, {lanes} lanes → {plan.out.url}\n"
            "starting workers…"
        )
        self._before = len("starting workers…")
        if not self._in_place:
            self._write("\n")

    def update(self, snapshot: Snapshot) -> None:
        for text in snapshot.problems:
            if text not in self._said:
                self._said.add(text)
                self._line(f"warning: {text}", final=True)
        done = snapshot.totals.get("images", 0) + snapshot.totals.get("failed", 0)
        if not snapshot.workers:
            return
        now = time.monotonic()
        self._seen = [(at, n) for at, n in self._seen if now - at <= SPEED_WINDOW_SECONDS] + [(now, done)]
        if self._in_place:
            self._line(self._text(snapshot, done))
        elif now - self._last_plain >= PLAIN_SECONDS or self._last_done < done >= self._images:
            self._last_plain, self._last_done = now, done
            self._line(self._text(snapshot, done), final=True)

    def waiting(self, seconds: float, reason: Callable[[], str]) -> None:
        """There has been no worker for so long; said now and then."""
        if seconds - self._last_waiting >= WAITING_SECONDS or seconds < self._last_waiting:
            self._last_waiting = seconds
            self._line(f"waiting for a worker for {duration(seconds)}: {reason()}", final=True)

    def end(self, report: RunReport) -> None:
        """What the run came to, in a few lines."""
        self._end_line()
        self._results.write(_summary(report))

    def fail(self, error: SdbatchError) -> None:
        self._end_line()
        self._write(f"sdbatch: error: {error}\n")

    def _text(self, snapshot: Snapshot, done: float) -> str:
        (t0, n0), (t1, n1) = self._seen[0], self._seen[-1]
        speed = (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0
        share = done / self._images if self._images else 1.0
        parts = [f"{share:4.0%}  {done:,.0f} of {self._images:,} images", f"{speed:.1f} images/s"]
        if speed > 0:
            parts.append(f"{duration((self._images - done) / speed)} left")
        if failed := snapshot.totals.get("failed", 0):
            parts.append(f"{failed:,.0f} failed")
        if snapshot.lost_workers:
            parts.append(f"{snapshot.lost_workers} lost workers")
        return "  ·  ".join(parts)

    def _end_line(self) -> None:
        """Whatever is written next begins on a line of its own."""
        if self._in_place and self._before:
            self._write("\n")
            self._before = 0

    def _line(self, text: str, final: bool = False) -> None:
        if not self._in_place:
            self._write(text + "\n")
            return
        self._write("\r" + text.ljust(self._before) + ("\n" if final else ""))
        self._before = 0 if final else len(text)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _summary(report: RunReport) -> str:
    lines = [
        f"{report.ok:,} of {report.images:,} images are in {report.out}, {report.made:,} of them made now "
        f"in {duration(report.seconds)}"
    ]
    shares = []
    if report.made and report.images_per_second is not None:
        shares.append(f"{report.images_per_second:.2f} images/s")
    if report.lane_occupancy is not None:
        shares.append(f"{report.lane_occupancy:.0%} of the lanes filled")
    if report.device_share is not None:
        shares.append(f"the engines worked {report.device_share:.0%} of their workers' time")
    if report.cost_per_1000 is not None:
        shares.append(f"{report.cost_per_1000:.4g} per 1,000 images")
    if shares:
        lines.append("  ·  ".join(shares))
    lines += [f"  {count:,} failed: {reason}" for reason, count in report.reasons.most_common()]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
