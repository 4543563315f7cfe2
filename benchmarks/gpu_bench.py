"""A running stage of `benchmarks/gpu.py`, and what its stages have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from engine_measure import run_engine
from gpu_report import Findings

from sdbatch.diffusion.device.memory import release_cached
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

__all__ = ["Bench", "passes_counted", "rate"]

LIMIT_SECONDS = 520


class Bench:
    """A running stage: its device, its remaining time, and its findings."""

    def __init__(self, stage: str, out: Path, smoke: bool):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"
        self.found = Findings(stage, out, smoke)
        self._started = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the stage must end; smoke mode leaves nothing out on a slow machine."""
        if self.smoke:
            return LIMIT_SECONDS
        return LIMIT_SECONDS - (time.monotonic() - self._started)

    def has_time(self, what: str, seconds: float = 60) -> bool:
        """Whether this many seconds are left; if not, the findings say what is left out."""
        if self.left < seconds:
            self.found.add(what, "left out: the stage's time is over")
        return self.left >= seconds

    def scaled(self, model: str) -> str:
        """The architecture to measure; in smoke mode a small one of its kind."""
        if not self.smoke:
            return model
        return "klein-small" if model == "klein" else "tiny"

    def few(self, rows: list[Request]) -> list[Request]:
        """The rows; in smoke mode two small ones."""
        return [replace(row, steps=2, height=64, width=64) for row in rows[:2]] if self.smoke else rows

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.smoke:
            torch.cuda.synchronize()

    def release(self) -> None:
        """Return memory that nothing uses any more."""
        release_cached(torch.device(self.device))

    def engine(self, model: str | Path, lanes: int | None, compile: str = "on", **settings) -> Engine:
        """An engine; in smoke mode nothing is compiled."""
        compile = "off" if self.smoke else compile
        return Engine(model, lanes=lanes, device=self.device, compile=compile, **settings)


def rate(engine: Engine, rows: list[Request]) -> float:
    """Images per second."""
    started = time.perf_counter()
    run_engine(engine, rows)
    return len(rows) / (time.perf_counter() - started)


@contextmanager
def passes_counted(engine: Engine) -> Iterator[dict[str, int]]:
    """Count an engine's passes, and those before which the device had nothing left to do: it waited for the host."""
    counts = {"passes": 0, "dry": 0}
    keep = engine._sampling._keep_in_step

    def counting() -> None:
        counts["passes"] += 1
        counts["dry"] += engine.device != "cpu" and torch.cuda.current_stream().query()
        keep()

    engine._sampling._keep_in_step = counting
    try:
        yield counts
    finally:
        engine._sampling._keep_in_step = keep
