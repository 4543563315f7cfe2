"""Which shard caused a worker's death, and when it runs alone."""

from __future__ import annotations

from sdbatch.run.faults.shard_attempts import Ledger


def alive(node: str) -> bool:
    return node != "gone"


def test_a_shard_that_comes_back_unfinished_has_lost_its_worker():
    ledger = Ledger()
    for deaths in range(4):
        assert ledger.deaths(7, alive) == deaths
        ledger.begin(7, "node")
    assert ledger.lost_workers == 3


def test_a_shard_that_was_lost_with_its_node_is_blameless():
    ledger = Ledger()
    ledger.begin(7, "gone")
    assert ledger.deaths(7, alive) == 0


def test_a_finished_shard_is_forgotten():
    ledger = Ledger()
    ledger.begin(7, "node")
    ledger.end(7)
    assert ledger.deaths(7, alive) == 0
