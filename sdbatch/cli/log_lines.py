"""Progress for log collectors: one JSON object per line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import SdbatchError
from sdbatch.plan.capacity import PoolSize
from sdbatch.plan.planning import Plan
from sdbatch.prompts import readings, unused_settings
from sdbatch.run.coordinator import Snapshot
from sdbatch.run.report import RunReport

__all__ = ["LogLines"]

EVERY_SECONDS = 15.0


class LogLines:
    """Implements `pipeline.Progress`.

    Every line has a `time` and an `event`: begin, progress, problem, waiting, end or error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._problems = 0
        self._next_progress = 0.0
        self._next_waiting = 0.0

    def begin(self, plan: Plan, engine: EngineSettings, pool: PoolSize) -> None:
        self._write(
            "begin",
            out=plan.out.url,
            shards=len(plan.shards),
            shards_to_do=len(plan.todo),
            model=plan.model.name,
            engine=engine.arguments(),
            workers=[pool.minimum, pool.maximum],
            cpus_per_worker=pool.worker.cpus,
            gpus_per_worker=pool.worker.gpus,
            columns=dict(plan.columns.settings),
            carried=list(plan.columns.carried),
            text=list(readings(plan.files, plan.columns)),
        )
        for text in (*unused_settings(plan.columns), *plan.notices):
            self._write("problem", text=text)

    def update(self, snapshot: Snapshot) -> None:
        for text in snapshot.problems[self._problems :]:
            self._write("problem", text=text)
        self._problems = len(snapshot.problems)
        if snapshot.workers and time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + EVERY_SECONDS
            self._write(
                "progress",
                workers=len(snapshot.workers),
                lost_workers=snapshot.lost_workers,
                **{name: round(total, 3) for name, total in snapshot.totals.items()},
            )

    def waiting(self, seconds: float, reason: Callable[[], str]) -> None:
        if time.monotonic() >= self._next_waiting:
            self._next_waiting = time.monotonic() + EVERY_SECONDS
            self._write("waiting", seconds=round(seconds, 1), text=reason())

    def end(self, report: RunReport) -> None:
        self._write("end", exit_status=report.exit_status, **report.to_json())

    def fail(self, error: SdbatchError) -> None:
        self._write("error", exit_status=error.exit_status, text=str(error))

    def _write(self, event: str, **values: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
        # In ASCII, so that it is readable on a stream of any encoding.
        print(json.dumps(line), file=self._stream, flush=True)
