"""Engines that fail during work: which nodes to avoid, and when to give up. Policy, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sdbatch.run.faults.avoided_nodes import unless_all
from sdbatch.run.faults.shard_attempts import GIVE_UP_AFTER

__all__ = ["WorkerHealth"]

FAULTS_PER_NODE = 2


class WorkerHealth:
    """Counts faults of engines since a shard was last finished, by node and in a row.

    A fault ends the worker's process and counts as a death of its shards; the ledger gives up a shard that causes
    faults repeatedly. A node that causes faults is avoided. If no shard is finished between more faults than
    the shards in progress can explain, no worker can do the work.
    """

    def __init__(self) -> None:
        self._by_node: Counter[str] = Counter()
        self._in_a_row = 0

    def failed(self, node: str) -> None:
        self._by_node[node] += 1
        self._in_a_row += 1

    def finished(self, node: str) -> None:
        """Record that a shard was made on `node`, not given up."""
        self._by_node.pop(node, None)
        self._in_a_row = 0

    @property
    def suspects(self) -> set[str]:
        """Nodes on which engines failed several times without a finished shard since."""
        return {node for node, faults in self._by_node.items() if faults >= FAULTS_PER_NODE}

    def avoided(self, nodes: Iterable[str]) -> frozenset[str]:
        """The nodes to avoid; none if all of them would be."""
        return unless_all(self.suspects, nodes)

    def hopeless(self, workers: int) -> bool:
        """Whether there are more faults in a row than the shards in progress can cause before they are given up.

        Args:
            workers: number of workers; one shard ends a worker's process at most `GIVE_UP_AFTER` times.
        """
        return self._in_a_row > GIVE_UP_AFTER * (max(1, workers) + 1)
