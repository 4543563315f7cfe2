"""A worker's requirements against what a cluster has and could add."""

from __future__ import annotations

import pytest

from sdbatch.errors import UsageError
from sdbatch.plan.capacity import Capacity, NodeGroup, WorkerResources, pool_size
from sdbatch.settings import RunSettings

HEAD = {"CPU": 4.0, "memory": 1e9}
L4 = {"CPU": 4.0, "GPU": 1.0}
H100X8 = {"CPU": 192.0, "GPU": 8.0}


def pool(capacity: Capacity, *, shards: int = 100, device: str = "cuda", **options):
    size = pool_size(RunSettings(**options), device, shards, capacity)
    return size.minimum, size.maximum


def test_by_default_a_pool_takes_all_there_is_and_never_more_workers_than_shards():
    assert pool(Capacity([HEAD, L4, H100X8])) == (9, 9)
    assert pool(Capacity([HEAD, L4, H100X8]), shards=3) == (3, 3)
    assert pool(Capacity([HEAD, L4, H100X8]), gpus_per_actor=0.5) == (18, 18)
    assert pool(Capacity([HEAD]), device="cpu", cpus_per_actor=2) == (2, 2)


def test_by_default_a_pool_grows_as_far_as_the_autoscaler_may():
    assert pool(Capacity([HEAD], [NodeGroup(L4, 16)])) == (1, 16)
    assert pool(Capacity([HEAD, L4, L4], [NodeGroup(L4, 16)])) == (2, 16)


def test_people_may_want_more_or_fewer():
    assert pool(Capacity([L4]), actors=(2, 2)) == (2, 2)
    assert pool(Capacity([L4]), actors=(1, 8), shards=4) == (1, 4)


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        (Capacity([HEAD]), ["needs 1 CPU and 1 GPU", "largest of 1 nodes has 4 CPU and 0 GPU", "no autoscaler"]),
        (Capacity([HEAD], [NodeGroup(HEAD, 5)]), ["may start 5 × 4 CPU and 0 GPU"]),
        (Capacity([]), ["largest of 0 nodes"]),
    ],
)
def test_what_can_never_be_is_refused_with_the_numbers(capacity, words):
    with pytest.raises(UsageError) as refused:
        pool(capacity)
    for word in words:
        assert word in str(refused.value)


def test_an_autoscaler_that_does_not_tell_gets_the_benefit_of_the_doubt():
    assert pool(Capacity([HEAD], silent_autoscaler=True), actors=(1, 4)) == (1, 4)


def test_a_gpu_that_could_come_counts_as_one():
    assert Capacity([HEAD], [NodeGroup(L4, 1)]).has_gpus
    assert not Capacity([HEAD]).has_gpus
    assert WorkerResources(1, 0).room(HEAD) == 4
