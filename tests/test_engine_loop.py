"""The loop between shards and an engine is bounded, and never waits forever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.standin import StandInEngine
from sdbatch.diffusion.request import Request
from sdbatch.fields import FrozenMapping
from sdbatch.prompts.picture_cells import PicturesAhead
from sdbatch.run.engine_loop import WAITING_PER_WRITER, WRITER_THREADS, EngineLoop

MOST = WRITER_THREADS * WAITING_PER_WRITER
LANES = 8


def requests(count: int, first: int = 0) -> list[Request]:
    return [Request(f"number {first + i}", seed=first + i) for i in range(count)]


class Steps:
    """Steps of an engine, waited for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1

    def settled(self) -> int:
        """How many there were when no more came."""
        before = -1
        while before != self.count:
            before = self.count
            time.sleep(0.3)
        return before


def test_the_engine_waits_for_slow_writers_and_then_continues():
    steps, may_write, written = Steps(), threading.Event(), Counter()
    loop = EngineLoop(StandInEngine(LANES, 0.001, lambda _: None), steps)

    def deliver(position, image):
        assert may_write.wait(60)
        written[position] += 1

    run = threading.Thread(target=loop.run, args=(requests(10 * MOST), deliver))
    run.start()
    stopped_at = steps.settled()
    # No more is made than may wait, and what the step brings that is under way.
    assert MOST // LANES - 1 <= stopped_at <= MOST // LANES + 1
    assert loop.counters["unwritten"] == MOST and not written
    may_write.set()
    run.join(60)
    assert written == Counter(range(10 * MOST)) and loop.counters["unwritten"] == 0
    assert loop.counters["write_seconds"] > 0.2


def test_a_writer_that_fails_ends_its_own_shard_and_frees_its_room():
    loop = EngineLoop(StandInEngine(LANES, 0.001, lambda _: None), lambda: None)
    written: Counter[int] = Counter()

    def full(position, image):
        raise OSError("No space left on device")

    def good(position, image):
        written[image.request.seed] += 1

    with pytest.raises(OSError, match="No space left"):
        loop.run(requests(3 * MOST), full)
    loop.run(requests(3 * MOST, first=10_000), good)
    assert written == Counter(range(10_000, 10_000 + 3 * MOST))


def test_two_shards_share_the_lanes_and_both_end_when_the_engine_fails():
    def fail(request: Request) -> None:
        if request.seed == 70:
            raise RuntimeError("CUDA error")

    steps, ended = Steps(), []
    loop = EngineLoop(StandInEngine(LANES, 0.001, fail), steps)

    def run(first: int) -> None:
        try:
            loop.run(requests(50, first), lambda position, image: None)
        except RuntimeError as error:
            ended.append((first, str(error)))

    both = [threading.Thread(target=run, args=(first,)) for first in (0, 50)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert (50, "CUDA error") in ended
    with pytest.raises(RuntimeError, match="CUDA error"):
        loop.run(requests(1), lambda position, image: None)


class Slow:
    """A reader of files: from the third row on, its store does not answer until it may."""

    def __init__(self) -> None:
        self.may_read = threading.Event()

    def read(self, request: Request, folder: str) -> Request:
        if request.seed >= 2:
            assert self.may_read.wait(60)
        return request


def test_an_engine_with_rows_does_not_wait_for_the_files_of_others():
    reader, made, first_two = Slow(), Counter(), threading.Event()
    loop = EngineLoop(StandInEngine(LANES, 0.001, lambda _: None), lambda: None)
    rows = [replace(row, extra=FrozenMapping({"number": row.seed})) for row in requests(6)]

    def deliver(position, image):
        made[position] += 1
        if made[0] and made[1]:
            first_two.set()

    ahead = PicturesAhead([(row, "") for row in rows], [reader])
    run = threading.Thread(target=loop.run, args=(ahead, deliver))
    run.start()
    assert first_two.wait(60) and set(made) == {0, 1}
    reader.may_read.set()
    run.join(60)
    assert not run.is_alive() and made == Counter(range(6))


def test_a_shard_is_read_while_another_is_made():
    started = threading.Event()

    class Reader:
        def read(self, request: Request, folder: str) -> Request:
            started.set()
            return request

    iter(PicturesAhead([(row, "") for row in requests(2)], [Reader()]))
    assert started.wait(60)
