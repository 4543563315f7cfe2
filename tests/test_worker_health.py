"""Which nodes are avoided and when a run is given up, if engines fail while they work."""

from __future__ import annotations

from sdbatch.run.faults.worker_health import WorkerHealth


def test_a_node_that_fails_again_is_avoided_until_it_finishes_a_shard():
    health = WorkerHealth()
    health.failed("bad")
    assert health.avoided({"bad", "good"}) == frozenset()
    health.failed("bad")
    assert health.avoided({"bad", "good"}) == {"bad"}
    assert health.avoided({"bad"}) == frozenset()  # better a bad node than none
    health.finished("bad")
    assert health.avoided({"bad", "good"}) == frozenset()


def test_a_run_is_given_up_when_nothing_is_finished_between_the_faults():
    health = WorkerHealth()
    faults = 0
    while not health.hopeless(workers=4):
        health.failed("node")
        faults += 1
        assert faults < 100
    assert faults > 3 * 4  # four shards could each have ended a worker three times
    health.finished("node")
    assert not health.hopeless(workers=4)
