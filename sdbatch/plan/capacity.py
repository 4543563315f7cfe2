"""Compares what one worker needs with what a cluster has and could have: arithmetic, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdbatch.errors import UsageError
from sdbatch.settings import RunSettings

__all__ = ["SHARDS_AT_ONCE", "Capacity", "NodeGroup", "PoolSize", "WorkerResources", "pool_size"]

Resources = Mapping[str, float]
SHARDS_AT_ONCE = 2
"""The number of shards that a worker makes at once, if there are enough."""


@dataclass(frozen=True)
class WorkerResources:
    """What one worker requests from Ray."""

    cpus: float
    gpus: float

    def room(self, node: Resources) -> int:
        """The number of workers that fit on an empty node."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        rooms = [node.get(name, 0) / amount for name, amount in needs.items() if amount > 0]
        return int(min(rooms)) if rooms else 1

    def __str__(self) -> str:
        return _amounts({"CPU": self.cpus, "GPU": self.gpus})


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind that an autoscaler may start, at most `maximum` of them."""

    resources: Resources
    maximum: int


@dataclass(frozen=True)
class Capacity:
    """A cluster's current and possible resources.

    Attributes:
        nodes: resources of every live node, used or not.
        groups: node groups that its autoscaler may start; empty without an autoscaler.
        silent_autoscaler: whether there is an autoscaler that does not report what it may start.
    """

    nodes: Sequence[Resources]
    groups: Sequence[NodeGroup] = ()
    silent_autoscaler: bool = False

    def now(self, worker: WorkerResources) -> int:
        """Workers that fit on the current nodes."""
        return sum(worker.room(node) for node in self.nodes)

    def ever(self, worker: WorkerResources) -> int:
        """Workers that fit once the autoscaler has started all nodes that it may."""
        return max(self.now(worker), sum(worker.room(group.resources) * group.maximum for group in self.groups))

    @property
    def has_gpus(self) -> bool:
        """Whether the cluster has a GPU, or could have one."""
        return any(resources.get("GPU", 0) > 0 for resources in (*self.nodes, *(g.resources for g in self.groups)))

    def compared_with(self, worker: WorkerResources) -> str:
        """What a worker needs, what exists and what could be added, as a message."""
        largest = max(self.nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        text = f"one worker needs {worker}; the largest of {len(self.nodes)} nodes has {_amounts(largest)}"
        if self.groups:
            kinds = ", ".join(f"{group.maximum} × {_amounts(group.resources)}" for group in self.groups)
            return f"{text}, and the autoscaler may start {kinds}"
        return f"{text}, and {'the' if self.silent_autoscaler else 'no'} autoscaler may add nodes"


@dataclass(frozen=True)
class PoolSize:
    """The number of workers, and what each needs."""

    minimum: int
    maximum: int
    worker: WorkerResources

    @property
    def fixed(self) -> bool:
        return self.minimum == self.maximum


def pool_size(settings: RunSettings, device: str, shards: int, capacity: Capacity) -> PoolSize:
    """The pool for `shards` shards: the whole cluster unless `--actors` is set, and at most one worker per shard.

    Raises:
        UsageError: a worker fits neither on a node of the cluster nor on one that its autoscaler could start.
    """
    gpus = settings.gpus_per_actor if settings.gpus_per_actor is not None else float(device == "cuda")
    worker = WorkerResources(settings.value("cpus_per_actor"), gpus)
    if capacity.ever(worker) == 0 and not capacity.silent_autoscaler:
        raise UsageError(
            f"{capacity.compared_with(worker)}; lower --cpus-per-actor or --gpus-per-actor, or add larger nodes"
        )
    room = max(1, capacity.now(worker)), max(1, capacity.ever(worker))
    minimum, maximum = settings.actors or room
    maximum = max(1, min(maximum, shards))
    return PoolSize(min(minimum, maximum), maximum, worker)


def _amounts(resources: Resources) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
