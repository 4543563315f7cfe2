"""Which shards may begin in a worker, and that none does in one that is about to end."""

from __future__ import annotations

import threading

import pytest

from sdbatch.run.faults.gate import Gate

SECONDS = 0.2  # long enough for a thread to pass if it may


class Shard(threading.Thread):
    """A thread that passes the gate and stays inside until it is let go, or fails."""

    def __init__(self, gate: Gate, alone: bool = False) -> None:
        super().__init__(daemon=True)
        self.gate, self.alone = gate, alone
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.gate.passing(self.alone):
            self.inside.set()
            self.leave.wait()


def test_one_that_goes_alone_waits_for_the_others_and_they_for_it():
    gate = Gate()
    first = Shard(gate)
    assert first.inside.wait(5)
    alone = Shard(gate, alone=True)
    assert not alone.inside.wait(SECONDS)
    first.leave.set()
    assert alone.inside.wait(5)
    last = Shard(gate)
    assert not last.inside.wait(SECONDS)
    alone.leave.set()
    assert last.inside.wait(5)
    last.leave.set()


def test_none_begins_after_an_error():
    gate = Gate()
    waiting = []
    with pytest.raises(RuntimeError), gate.passing(alone=True):
        waiting.append(Shard(gate))
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
    late = Shard(gate)
    assert not waiting[0].inside.wait(SECONDS) and not late.inside.is_set()
