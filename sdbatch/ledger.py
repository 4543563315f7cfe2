"""Which shards lost the worker that was making them, and how often: policy, without Ray."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ALONE_AFTER", "GIVE_UP_AFTER", "Ledger"]

ALONE_AFTER = 2
GIVE_UP_AFTER = 3


class Ledger:
    """A shard that was begun and comes back without having ended has lost its worker.

    Lost to its node (spot, a crash of the machine), it is blameless; otherwise that counts as a death. After
    `ALONE_AFTER` deaths a shard is made alone in its worker, so that it takes no neighbour along again; after
    `GIVE_UP_AFTER` its rows fail.
    """

    def __init__(self) -> None:
        self._begun: dict[int, str] = {}
        self._deaths: dict[int, int] = {}

    def deaths(self, shard: int, node_alive: Callable[[str], bool]) -> int:
        """How often `shard` has lost its worker; a begin that was left open is settled here."""
        node = self._begun.pop(shard, None)
        if node is not None and node_alive(node):
            self._deaths[shard] = self._deaths.get(shard, 0) + 1
        return self._deaths.get(shard, 0)

    def begin(self, shard: int, node: str) -> None:
        self._begun[shard] = node

    def end(self, shard: int) -> None:
        self._begun.pop(shard, None)

    @property
    def lost_workers(self) -> int:
        return sum(self._deaths.values())
