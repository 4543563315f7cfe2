"""Counts how often each shard lost its worker: policy, without Ray."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ALONE_AFTER", "GIVE_UP_AFTER", "Ledger"]

ALONE_AFTER = 2
GIVE_UP_AFTER = 3


class Ledger:
    """Tracks shards: one that is started again without having ended has lost its worker.

    If the node was lost (spot, a machine crash), that does not count; otherwise it is a death. After
    `ALONE_AFTER` deaths a shard is made alone in its worker, to spare its neighbours; after
    `GIVE_UP_AFTER` its rows fail.
    """

    def __init__(self) -> None:
        self._in_progress: dict[int, str] = {}
        self._deaths: dict[int, int] = {}
        self._started: set[int] = set()

    def deaths(self, shard: int, node_alive: Callable[[str], bool]) -> int:
        """How often `shard` has lost its worker, including a start that has not ended."""
        node = self._in_progress.pop(shard, None)
        if node is not None and node_alive(node):
            self._deaths[shard] = self._deaths.get(shard, 0) + 1
        return self._deaths.get(shard, 0)

    def begin(self, shard: int, node: str) -> None:
        self._in_progress[shard] = node
        self._started.add(shard)

    def has_started(self, shard: int) -> bool:
        """Whether this run has started the shard, however that ended."""
        return shard in self._started

    def end(self, shard: int) -> None:
        self._in_progress.pop(shard, None)

    @property
    def lost_workers(self) -> int:
        return sum(self._deaths.values())
