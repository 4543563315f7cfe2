"""Which nodes a run avoids. Policy, without Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["unless_all"]


def unless_all(bad: Collection[str], nodes: Iterable[str]) -> frozenset[str]:
    """The bad nodes among the live ones; none if all of them are bad, since work must continue somewhere."""
    nodes = frozenset(nodes)
    avoided = nodes.intersection(bad)
    return avoided if avoided != nodes else frozenset()
