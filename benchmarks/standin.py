"""An engine that makes nothing: it sleeps, and gives noise that follows from the seed. Imports no torch.

With it a cluster of many workers fits on one machine, and what is measured, or killed, is all the rest.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdbatch.diffusion.request import GeneratedImage, Request

__all__ = ["StandIn", "StandInEngine"]


class StandInEngine:
    """As many rows a step as it has lanes; every step takes `step_seconds`."""

    def __init__(self, lanes: int, step_seconds: float, on_request: Callable[[Request], None]) -> None:
        self.lanes = lanes
        self._step_seconds = step_seconds
        self._on_request = on_request
        self._waiting: deque[tuple[int, Request]] = deque()
        self._submitted = self._steps = self._used = 0

    @property
    def room(self) -> int:
        return max(0, 2 * self.lanes - len(self._waiting))

    @property
    def idle(self) -> bool:
        return not self._waiting

    @property
    def counters(self) -> dict[str, float]:
        return {
            "lane_calls": self._steps * self.lanes,
            "lane_calls_used": self._used,
            "lanes": self.lanes,
            "lanes_used": min(self.lanes, len(self._waiting)),
            "waiting_rows": len(self._waiting),
        }

    def describe(self) -> dict[str, Any]:
        return {"model": "stand-in", "lanes": self.lanes}

    def submit(self, request: Request) -> int:
        self._waiting.append((self._submitted, request))
        self._submitted += 1
        return self._submitted - 1

    def step(self) -> list[GeneratedImage]:
        time.sleep(self._step_seconds)
        rows = [self._waiting.popleft() for _ in range(min(self.lanes, len(self._waiting)))]
        self._steps += 1
        self._used += len(rows)
        return [self._image(index, request) for index, request in rows]

    def _image(self, index: int, request: Request) -> GeneratedImage:
        self._on_request(request)
        noise = np.random.default_rng(request.seed).integers(0, 256, (8, 8, 3), np.uint8)
        return GeneratedImage(request, index, noise, prompt_tokens=len(request.prompt.split()))


@dataclass(frozen=True)
class StandIn:
    """Makes stand-in engines; what `sdbatch.pipeline.generate(make_engine=…)` takes.

    Args:
        step_seconds: time of a step.
        deadly, stuck, unfit: prompts that kill the worker's process, that hang it, and whose node can't start one.
    """

    step_seconds: float = 0.05
    deadly: str | None = None
    stuck: str | None = None
    unfit: Callable[[], str | None] | None = None

    def __call__(self, job: Any) -> StandInEngine:
        if self.unfit is not None and (reason := self.unfit()):
            raise RuntimeError(reason)
        return StandInEngine(job.engine["lanes"], self.step_seconds, self._meet)

    def _meet(self, request: Request) -> None:
        if request.prompt == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if request.prompt == self.stuck:
            time.sleep(3600)
