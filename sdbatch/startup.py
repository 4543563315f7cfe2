"""Workers that cannot start: which nodes to avoid, and when to give up. Policy, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["Startup"]

FAILURES_A_NODE = 2
FAILURES_IN_A_ROW = 3


class Startup:
    """Keeps count of how the starts of workers go, by node.

    One bad machine among many (a driver that does not match, a GPU in trouble) must not end a run; a model that
    no machine can load must end it soon.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._in_a_row = 0
        self._ever_started = False

    def begun(self, worker: str, node: str) -> None:
        self._under_way[worker] = node

    def is_under_way(self, worker: str) -> bool:
        return worker in self._under_way

    def succeeded(self, worker: str) -> None:
        self._failures.pop(self._under_way.pop(worker), None)
        self._in_a_row = 0
        self._ever_started = True

    def failed(self, worker: str) -> int:
        """Returns how many starts have failed in a row, wherever."""
        self._failures[self._under_way.pop(worker)] += 1
        self._in_a_row += 1
        return self._in_a_row

    @property
    def suspects(self) -> set[str]:
        """Nodes on which several starts have failed and none has succeeded since."""
        return {node for node, failures in self._failures.items() if failures >= FAILURES_A_NODE}

    def avoided(self, nodes: Iterable[str]) -> frozenset[str]:
        """Those of `nodes` to keep away from; none if no other would be left."""
        nodes = frozenset(nodes)
        bad = nodes & self.suspects
        return bad if bad != nodes else frozenset()

    @property
    def hopeless(self) -> bool:
        """No worker has ever started, several in a row have failed to, and none is at it on a node yet untried."""
        untried = set(self._under_way.values()) - self._failures.keys()
        return not self._ever_started and self._in_a_row >= FAILURES_IN_A_ROW and not untried
