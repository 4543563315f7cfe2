"""A thread that keeps an engine's lanes full from several shards at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.prompts.picture_cells import Reading

if TYPE_CHECKING:
    from sdbatch.diffusion import Engine

__all__ = ["EngineLoop"]

WRITER_THREADS = 4
WAITING_PER_WRITER = 8


class _Job:
    """The requests of one shard: submitted in order, delivered as they finish."""

    def __init__(self, requests: Sequence[Request], deliver: Callable[[int, GeneratedImage], None]) -> None:
        self.source: Iterator[Request] = iter(requests)  # starts to read the pictures of the first ones
        self.submitted = 0
        self.deliver = deliver
        self.left = len(requests)
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        if not requests:
            self.done.set()

    @property
    def is_ready(self) -> bool:
        """Whether the next request needs no waiting."""
        return not isinstance(self.source, Reading) or self.source.is_ready

    def close(self) -> None:
        if isinstance(self.source, Reading):
            self.source.close()

    def finish_one(self, error: BaseException | None) -> None:
        with self._lock:
            self.left -= 1
            self.error = self.error or error
            if self.left == 0 or self.error:
                self.done.set()


class EngineLoop:
    """Runs `engine.step()` in its own thread; `run` may be called from several threads at once.

    Jobs are taken in order; the next one's requests fill the lanes that the last rows of the previous job
    leave free. Finished images go to a few writer threads; if these fall behind, the loop waits for them, so
    that memory stays bounded.

    Args:
        engine: used by this loop only.
        on_progress: called after every step of the engine, from the loop's thread.
    """

    def __init__(self, engine: Engine, on_progress: Callable[[], None]) -> None:
        self._engine = engine
        self._on_progress = on_progress
        self._model_seconds = 0.0
        self._write_seconds = 0.0
        self._idle_seconds = 0.0
        self._jobs: deque[_Job] = deque()
        self._owners: dict[int, tuple[_Job, int]] = {}
        self._wake = threading.Condition()
        self._error: BaseException | None = None
        self._writers = ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="writer")
        self._unwritten = 0
        self._written = threading.Condition()
        threading.Thread(target=self._main, name="engine", daemon=True).start()

    def run(self, requests: Sequence[Request], deliver: Callable[[int, GeneratedImage], None]) -> None:
        """Make all `requests`; `deliver(position, image)` is called from writer threads as they finish.

        Returns when every call has returned. Reraises exceptions of the engine and of `deliver`.
        """
        job = _Job(requests, deliver)
        with self._wake:
            if self._error is not None:
                raise self._error
            self._jobs.append(job)
            self._wake.notify()
        job.done.wait()
        if job.error is not None:
            raise job.error

    @property
    def counters(self) -> dict[str, float]:
        """Seconds spent in the engine, waiting for writers and without work; images that wait to be written."""
        return {
            "model_seconds": self._model_seconds,
            "write_seconds": self._write_seconds,
            "idle_seconds": self._idle_seconds,
            "unwritten": self._unwritten,
        }

    def _main(self) -> None:
        try:
            while True:
                self._feed()
                started = time.monotonic()
                images = self._engine.step()
                stepped = time.monotonic()
                self._model_seconds += stepped - started
                for image in images:
                    self._write(image)
                self._write_seconds += time.monotonic() - stepped
                self._on_progress()
        except BaseException as exc:  # the thread ends: those who wait must get the reason
            self._fail_all(exc)

    def _feed(self) -> None:
        """Pass requests to the engine while it has room; sleep while there is nothing to do.

        An engine with rows does not wait for the files of others.
        """
        with self._wake:
            while self._engine.idle and not self._jobs:
                since = time.monotonic()
                self._wake.wait()
                self._idle_seconds += time.monotonic() - since
        while self._jobs and self._engine.room > 0:
            job = self._jobs[0]
            if not (self._engine.idle or job.is_ready or job.error):
                return
            request = None if job.error else next(job.source, None)
            if request is None:
                job.close()
                self._jobs.popleft()
                continue
            self._owners[self._engine.submit(request)] = (job, job.submitted)
            job.submitted += 1

    def _write(self, image: GeneratedImage) -> None:
        job, position = self._owners.pop(image.index)
        with self._written:
            self._written.wait_for(lambda: self._unwritten < WRITER_THREADS * WAITING_PER_WRITER)
            self._unwritten += 1
        self._writers.submit(self._deliver, job, position, image)

    def _deliver(self, job: _Job, position: int, image: GeneratedImage) -> None:
        error = None
        try:
            job.deliver(position, image)
        except BaseException as exc:  # raised again by `run`, in the thread that waits for this job
            error = exc
        finally:
            with self._written:
                self._unwritten -= 1
                self._written.notify()
        job.finish_one(error)

    def _fail_all(self, error: BaseException) -> None:
        with self._wake:
            self._error = error
            waiting = {job for job, _ in self._owners.values()} | set(self._jobs)
        for job in waiting:
            job.finish_one(error)
