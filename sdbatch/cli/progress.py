"""Progress for people: a line that is updated in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

from sdbatch.cli.words import counted, duration, mended, printable
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import SdbatchError
from sdbatch.plan.capacity import PoolSize
from sdbatch.plan.planning import Plan
from sdbatch.prompts import carried_columns, readings, setting_columns, unused_settings
from sdbatch.run.coordinator import Snapshot
from sdbatch.run.report import RunReport

__all__ = ["ProgressLine"]

PLAIN_SECONDS = 15.0
# The pause between plain lines grows, so that a day's log has under two hundred of them and not thousands.
PLAIN_SHARE, MAX_PLAIN_SECONDS = 0.1, 600.0
WORKERS_SECONDS = 15.0
WAITING_SECONDS = 60.0
SPEED_WINDOW_SECONDS = 60.0
BAR = 24


class ProgressLine:
    """Implements `pipeline.Progress` on a text stream.

    Args:
        stream: receives progress and warnings, such as `sys.stderr`.
        results: receives the summary at the end, such as `sys.stdout`.
        in_place: whether the stream is a terminal, where a line can be rewritten.
        quiet: print only warnings and errors.
        verbose: also print a line for each worker now and then.
    """

    def __init__(
        self, stream: TextIO, results: TextIO, *, in_place: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        self._stream, self._results = stream, results
        self._in_place, self._quiet, self._verbose = in_place, quiet, verbose
        self._images = 0
        self._began = time.monotonic()
        self._last_plain = self._last_workers = -MAX_PLAIN_SECONDS
        self._last_waiting = -WAITING_SECONDS
        self._last_done = 0.0
        self._seen: deque[tuple[float, float]] = deque()
        self._said: set[str] = set()
        self._shown = ""

    def begin(self, plan: Plan, engine: EngineSettings, pool: PoolSize) -> None:
        """Before the first worker starts."""
        self._images = plan.todo.rows * plan.record.settings["images_per_prompt"]
        self._began = time.monotonic()
        if not self._quiet:
            self._say(_intention(plan, engine, pool))
            self._say(f"columns: {setting_columns(plan.columns)}  ·  carried: {carried_columns(plan.columns)}")
        for text in readings(plan.files, plan.columns):
            self._say(text)
        for text in (*unused_settings(plan.columns), *plan.notices):
            self._say(f"warning: {text}")
        if self._quiet:
            return
        self._show("starting workers…")

    def update(self, snapshot: Snapshot) -> None:
        for text in snapshot.problems:
            if text not in self._said:
                self._said.add(text)
                self._say(f"warning: {text}")
        if self._quiet or not snapshot.workers:
            return
        now = time.monotonic()
        done = _finished(snapshot.totals)
        self._seen.append((now, done))
        while now - self._seen[0][0] > SPEED_WINDOW_SECONDS:
            self._seen.popleft()
        if self._verbose and now - self._last_workers >= WORKERS_SECONDS:
            self._last_workers = now
            for name, counters in sorted(snapshot.workers.items()):
                self._say(_worker(name, counters))
        if self._in_place:
            self._show(self._text(snapshot, done, _bar(self._share(done))))
        elif self._is_due(now) or self._last_done < done >= self._images:
            self._last_plain, self._last_done = now, done
            self._say(self._text(snapshot, done))

    def waiting(self, seconds: float, reason: Callable[[], str]) -> None:
        """Report now and then that there has been no worker for `seconds`; not if quiet, since one may yet start."""
        if self._quiet:
            return
        if seconds - self._last_waiting >= WAITING_SECONDS or seconds < self._last_waiting:
            self._last_waiting = seconds
            self._say(f"waiting for a worker for {duration(seconds)}: {reason()}")

    def end(self, report: RunReport) -> None:
        """Print the summary; if quiet, only if rows failed."""
        self._clear()
        if not self._quiet or report.failed:
            self._results.write(_summary(report))
            self._results.flush()

    def fail(self, error: SdbatchError) -> None:
        """Print why the run ended early."""
        self._say(f"sdbatch: error: {error}")

    def _is_due(self, now: float) -> bool:
        pause = min(MAX_PLAIN_SECONDS, max(PLAIN_SECONDS, PLAIN_SHARE * (now - self._began)))
        return now - self._last_plain >= pause

    def _share(self, done: float) -> float:
        return min(1.0, done / self._images) if self._images else 1.0

    def _text(self, snapshot: Snapshot, done: float, bar: str = "") -> str:
        (t0, n0), (t1, n1) = self._seen[0], self._seen[-1]
        speed = (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0
        parts = [f"{bar}{self._share(done):4.0%}  {done:,.0f} of {self._images:,} images"]
        if speed > 0:
            parts += [f"{speed:.1f} images/s", f"{duration((self._images - done) / speed)} left"]
        if failed := snapshot.totals.get("failed", 0):
            parts.append(f"{failed:,.0f} failed")
        if snapshot.lost_workers:
            parts.append(f"{snapshot.lost_workers} lost workers")
        return "  ·  ".join(parts)

    def _say(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        self._write(printable(text) + "\n")

    def _show(self, text: str) -> None:
        """Print a line that the next one replaces; on a stream that is not a terminal it stays."""
        if not self._in_place:
            self._say(text)
            return
        # A line that wraps could not be rewritten.
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + text.ljust(len(self._shown)))
        self._shown = text

    def _clear(self) -> None:
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _intention(plan: Plan, engine: EngineSettings, pool: PoolSize) -> str:
    """What the run will do, in one line."""
    per_row = plan.record.settings["images_per_prompt"]
    rows = plan.todo.rows
    images = f"{counted(rows * per_row, 'image')} of {counted(rows, 'row')}" if per_row > 1 else counted(rows, "image")
    lanes = f"{engine.lanes} lanes" if engine.lanes else "as many lanes as fit"
    workers = f"{pool.minimum}" if pool.fixed else f"{pool.minimum} to {pool.maximum}"
    parts = [
        f"{images} with {plan.model.name} → {plan.out.url}",
        f"{workers} worker{'s' * (workers != '1')} on {engine.device}, {engine.dtype}, {lanes} each",
    ]
    if len(plan.todo) < len(plan.shards):
        parts.append(
            f"{len(plan.todo):,} of {counted(len(plan.shards), 'shard')}, the rest are done or belong to other parts"
        )
    else:
        parts.append(counted(len(plan.shards), "shard"))
    return "  ·  ".join(parts)


def _summary(report: RunReport) -> str:
    """A summary of the run in one line, and another line for every reason of failure."""
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
    if report.totals.get("attempts"):
        lines.append(counted(round(report.totals["attempts"]), "further attempt"))
    if report.totals.get("exhausted"):
        lines.append(f"{counted(int(report.totals['exhausted']), 'row')} without a kept picture")
    lines += [f"  {count:,} rejected: {printable(condition)}" for condition, count in report.rejected.items()]
    lines += [f"warning: {printable(text)}" for text in report.findings]
    if report.mended_texts:
        lines.append(f"warning: {mended(report.mended_texts)}")
    lines += [f"  {count:,} failed: {printable(reason)}" for reason, count in report.reasons.most_common()]
    return "\n".join(lines) + "\n"


def _worker(name: str, counters: Mapping[str, float]) -> str:
    failed = f", {counters['failed']:,.0f} failed" if counters.get("failed") else ""
    return f"  worker {name[:8]}: {counters.get('images', 0):,.0f} images{failed}"


def _finished(totals: Mapping[str, float]) -> float:
    return totals.get("images", 0) + totals.get("failed", 0)


def _bar(share: float) -> str:
    """A bar of `BAR` characters, in eighths of a character."""
    whole, eighths = divmod(round(share * BAR * 8), 8)
    part = "▏▎▍▌▋▊▉"[eighths - 1] if eighths else ""
    return f"▕{('█' * whole + part).ljust(BAR)}▏ "
