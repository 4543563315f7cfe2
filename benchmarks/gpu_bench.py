"""A running stage of `benchmarks/gpu.py`, and what its stages have in common."""

from __future__ import annotations

import time
from pathlib import Path

from engine_measure import run_engine
from gpu_report import Findings

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

__all__ = ["Bench", "rate"]

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
        """Seconds until the stage must end."""
        return LIMIT_SECONDS - (time.monotonic() - self._started)

    def scaled(self, model: str) -> str:
        """The architecture to measure; in smoke mode a small one of its kind."""
        if not self.smoke:
            return model
        return "klein-small" if model == "klein" else "tiny"

    def engine(self, model: str | Path, lanes: int | None, compile: str = "on", **settings) -> Engine:
        """An engine; in smoke mode nothing is compiled."""
        compile = "off" if self.smoke else compile
        return Engine(model, lanes=lanes, device=self.device, compile=compile, **settings)


def rate(engine: Engine, rows: list[Request]) -> float:
    """Images per second."""
    started = time.perf_counter()
    run_engine(engine, rows)
    return len(rows) / (time.perf_counter() - started)
