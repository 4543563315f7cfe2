"""Workers that cannot start: which nodes to avoid, and when to give up. Policy, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sdbatch.run.faults.avoided_nodes import unless_all

__all__ = ["Startup"]

FAILURES_PER_NODE = 2
FAILURES_IN_A_ROW = 3


class Startup:
    """Counts failed starts of workers by node.

    One bad machine among many (a wrong driver, a defective GPU) must not end a run; a model that
    no machine can load must end it soon.
    """

    def __init__(self) -> None:
        self._starting: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._in_a_row = 0
        self._ever_started = False

    def starting(self, worker: str, node: str) -> None:
        self._starting[worker] = node

    def is_starting(self, worker: str) -> bool:
        return worker in self._starting

    def succeeded(self, worker: str) -> None:
        self._failures.pop(self._starting.pop(worker), None)
        self._in_a_row = 0
        self._ever_started = True

    def failed(self, worker: str) -> int:
        """Record a failed start. Returns the number of consecutive failures on all nodes."""
        self._failures[self._starting.pop(worker)] += 1
        self._in_a_row += 1
        return self._in_a_row

    @property
    def suspects(self) -> set[str]:
        """Nodes on which several starts have failed and none has succeeded since."""
        return {node for node, failures in self._failures.items() if failures >= FAILURES_PER_NODE}

    def avoided(self, nodes: Iterable[str]) -> frozenset[str]:
        """The nodes to avoid; none if all of them would be."""
        return unless_all(self.suspects, nodes)

    @property
    def hopeless(self) -> bool:
        """Whether no worker has ever started, several in a row have failed, and none is starting on an untried node."""
        untried = set(self._starting.values()) - self._failures.keys()
        return not self._ever_started and self._in_a_row >= FAILURES_IN_A_ROW and not untried
