"""A stand-in for the engine: it sleeps, and returns noise derived from the seed. Imports no torch.

With it a cluster of many workers fits on one machine, so that everything else can be measured, or killed.
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
import ray

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.validation import validate

__all__ = ["StandIn", "StandInEngine"]

TINY_SIZE = 64  # size of the packaged model's pictures, for rows without a size


class StandInEngine:
    """Runs as many rows per step as it has lanes; every step takes `step_seconds`."""

    def __init__(
        self,
        lanes: int,
        step_seconds: float,
        on_request: Callable[[Request], None],
        full_size: bool = False,
        info: ModelInfo | None = None,
    ) -> None:
        self.lanes = lanes
        self._full_size = full_size
        self._info = info
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
        return {"model": "stand-in", "device_name": "noise", "lanes": self.lanes}

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

    def make_room(self) -> bool:
        return False

    def _image(self, index: int, request: Request) -> GeneratedImage:
        if self._info is not None and (reason := validate(request, self._info)):
            return GeneratedImage(request, index, None, reason)
        self._on_request(request)
        noise = np.random.default_rng(request.seed).integers(0, 256, (8, 8, 3), np.uint8)
        if self._full_size:
            height, width = request.height or TINY_SIZE, request.width or TINY_SIZE
            noise = np.repeat(np.repeat(noise, height // 8, axis=0), width // 8, axis=1)
        return GeneratedImage(request, index, noise, prompt_tokens=len(request.prompt.split()))


@dataclass(frozen=True)
class StandIn:
    """Creates stand-in engines; an argument for `sdbatch.run.pipeline.generate(make_engine=…)`.

    Args:
        step_seconds: time of a step.
        start_seconds: time that an engine takes to start.
        log: a file to which a line is written for every image made, to count images made twice.
        deadly: a prompt that kills the worker's process.
        stuck: a prompt that never ends.
        faulty: a prompt on which the engine fails, or "every".
        unfit: the id of a node on which no engine starts, or "every".
        full_size: whether pictures have the size of their row; otherwise 8 × 8 pixels.
        validates: whether rows that the run's model cannot run fail, as in the real engine.
    """

    step_seconds: float = 0.05
    start_seconds: float = 0.0
    log: str | None = None
    deadly: str | None = None
    stuck: str | None = None
    faulty: str | None = None
    unfit: str | None = None
    full_size: bool = False
    validates: bool = False

    def __call__(self, job: Any) -> StandInEngine:
        if self.unfit in ("every", ray.get_runtime_context().get_node_id()):
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        time.sleep(self.start_seconds)
        info = job.source.inspect() if self.validates else None
        return StandInEngine(job.engine.lanes, self.step_seconds, self._meet, self.full_size, info)

    def _meet(self, request: Request) -> None:
        if request.prompt == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.faulty in ("every", request.prompt):
            raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED\nCUDA kernel errors might be reported late")
        if request.prompt == self.stuck:
            time.sleep(3600)
        if self.log is not None:
            with open(self.log, "a") as log:
                log.write(f"{request.prompt}\n")
