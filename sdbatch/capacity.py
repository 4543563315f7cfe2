"""What one worker asks for, against what a cluster has and could have: arithmetic, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdbatch.errors import UsageError
from sdbatch.settings import RunSettings

__all__ = ["Ask", "Capacity", "NodeGroup", "PoolSize", "pool_size"]

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Ask:
    """What one worker asks of Ray."""

    cpus: float
    gpus: float

    def room(self, node: Resources) -> int:
        """How many workers a node has room for when it is empty."""
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        rooms = [node.get(name, 0) / amount for name, amount in asked.items() if amount > 0]
        return int(min(rooms)) if rooms else 1

    def __str__(self) -> str:
        return _amounts({"CPU": self.cpus, "GPU": self.gpus})


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind that an autoscaler may start, at most `most` of them."""

    resources: Resources
    most: int


@dataclass(frozen=True)
class Capacity:
    """What a cluster has, and could have.

    Attributes:
        nodes: resources of every node that is there, whoever uses them now.
        groups: what its autoscaler may start; empty where there is none.
        silent_autoscaler: there is an autoscaler, and it does not say what it may start.
    """

    nodes: Sequence[Resources]
    groups: Sequence[NodeGroup] = ()
    silent_autoscaler: bool = False

    def now(self, ask: Ask) -> int:
        """Workers that fit on the nodes that are there."""
        return sum(ask.room(node) for node in self.nodes)

    def ever(self, ask: Ask) -> int:
        """Workers that fit once the autoscaler has started all it may."""
        return max(self.now(ask), sum(ask.room(group.resources) * group.most for group in self.groups))

    @property
    def has_gpus(self) -> bool:
        """Whether there is a GPU in its books, or could be."""
        return any(resources.get("GPU", 0) > 0 for resources in (*self.nodes, *(g.resources for g in self.groups)))

    def compared_with(self, ask: Ask) -> str:
        """What is asked for, had and could be had, in numbers, for people."""
        largest = max(self.nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        text = f"one worker asks for {ask}; the largest of {len(self.nodes)} nodes has {_amounts(largest)}"
        if self.groups:
            kinds = ", ".join(f"{group.most} × {_amounts(group.resources)}" for group in self.groups)
            return f"{text}, and the autoscaler may start {kinds}"
        return f"{text}, and {'the' if self.silent_autoscaler else 'no'} autoscaler may add some"


@dataclass(frozen=True)
class PoolSize:
    """How many workers, and what each asks for."""

    least: int
    most: int
    ask: Ask

    @property
    def fixed(self) -> bool:
        return self.least == self.most


def pool_size(settings: RunSettings, device: str, shards: int, capacity: Capacity) -> PoolSize:
    """The pool for `shards` shards: all of the cluster unless `--actors` says otherwise, never more than shards.

    Raises:
        UsageError: a worker fits on no node of the cluster, nor on one that its autoscaler could start.
    """
    gpus = settings.gpus_per_actor if settings.gpus_per_actor is not None else float(device == "cuda")
    cpus = settings.cpus_per_actor if settings.cpus_per_actor is not None else 1.0
    ask = Ask(cpus, gpus)
    if capacity.ever(ask) == 0 and not capacity.silent_autoscaler:
        raise UsageError(
            f"{capacity.compared_with(ask)}; lower --cpus-per-actor or --gpus-per-actor, or add larger nodes"
        )
    room = max(1, capacity.now(ask)), max(1, capacity.ever(ask))
    least, most = settings.actors or room
    most = max(1, min(most, shards))
    return PoolSize(min(least, most), most, ask)


def _amounts(resources: Resources) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
