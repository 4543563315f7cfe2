"""Many small reads, several at a time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["READERS", "in_order"]

READERS = 32  # concurrent requests
AHEAD = 2 * READERS  # reads ahead of the consumer, because a slow one would fill memory

T = TypeVar("T")


def in_order(read: Callable[[str], T], names: Iterable[str], together: int = 1) -> Iterator[T]:
    """The results of `read` for all names, in order; raises its error in the place of a result.

    Args:
        together: reads that a thread makes one after another. Where a read takes as long as starting a task, as on a
            local disk, several save time.
    """
    pool = ThreadPoolExecutor(READERS)
    under_way: deque[Future[tuple[list[T], Exception | None]]] = deque()
    names = iter(names)
    ahead = size = 1  # few at first, because some consumers need only the first files
    try:
        while part := list(islice(names, size)):
            under_way.append(pool.submit(_read_all, read, part))
            if len(under_way) > ahead:
                yield from _results(under_way.popleft())
                ahead, size = min(2 * ahead, AHEAD // together), min(2 * size, together)
        while under_way:
            yield from _results(under_way.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _read_all(read: Callable[[str], T], names: Sequence[str]) -> tuple[list[T], Exception | None]:
    """The results before the first error, and the error."""
    results: list[T] = []
    try:
        for name in names:
            results.append(read(name))
    except Exception as error:
        return results, error
    return results, None


def _results(task: Future[tuple[list[T], Exception | None]]) -> Iterator[T]:
    results, error = task.result()
    yield from results
    if error is not None:
        raise error
