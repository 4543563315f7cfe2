"""Failing worker starts: which nodes to avoid, and when to give up."""

from __future__ import annotations

from sdbatch.run.faults.startup import Startup


def fail(startup: Startup, *starts: tuple[str, str]) -> None:
    for worker, node in starts:
        startup.starting(worker, node)
    for worker, _ in starts:
        startup.failed(worker)


def test_a_node_is_avoided_after_two_failures_unless_it_is_the_last():
    startup = Startup()
    fail(startup, ("a", "bad"))
    assert startup.avoided(["bad", "good"]) == set()
    fail(startup, ("b", "bad"))
    assert startup.avoided(["bad", "good"]) == {"bad"}
    assert startup.avoided(["bad"]) == set()
    startup.starting("c", "bad")
    startup.succeeded("c")
    assert startup.avoided(["bad", "good"]) == set()


def test_it_is_hopeless_when_every_node_that_tried_has_failed_three_times_in_a_row():
    startup = Startup()
    startup.starting("slow", "untried")
    fail(startup, ("a", "bad"), ("b", "bad"), ("c", "bad"))
    assert not startup.hopeless
    startup.failed("slow")
    assert startup.hopeless


def test_it_is_never_hopeless_once_a_worker_has_started():
    startup = Startup()
    startup.starting("a", "good")
    startup.succeeded("a")
    fail(startup, *((str(i), "bad") for i in range(10)))
    assert not startup.hopeless
