"""Killed with -9, again and again, a run writes the bytes that an undisturbed one writes, and little of it twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import ROWS, SHARD, events, nodes
from tests.outputs import content, markers

pytestmark = pytest.mark.cluster

WORKERS = 4
# What a worker that is lost may have had under way.
SHARDS_PER_WORKER = 2


@pytest.fixture(scope="module")
def cluster():
    with nodes(WORKERS) as cluster:
        yield cluster


@pytest.fixture
def run(cluster, start, tmp_path):
    """A run of twelve shards, a second each, under way."""
    run = start(cluster.address, stand_in=slowly(tmp_path), actors=(WORKERS, WORKERS))
    run.wait_for_markers(1)
    return run


def slowly(folder: Path) -> dict:
    return {"step_seconds": 1.0, "log": str(folder / "made.log")}


@pytest.fixture(scope="module")
def expected(cluster, prompts, tmp_path_factory):
    from tests.cluster import driver

    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process = driver.start(
        prompts, out, stand_in={}, address=cluster.address, device="cpu", shard_size=SHARD, lanes=SHARD
    )
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return content(out)


def made_twice(folder: Path) -> int:
    """Images that were made, beyond one for each row."""
    return len((folder / "made.log").read_text().splitlines()) - ROWS


def raylet(node) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def workers(node) -> list[psutil.Process]:
    """The processes of our actors on a node, by the title that Ray gives them."""
    children = raylet(node).children(recursive=True)
    return [child for child in children if "ShardWorker" in " ".join(child.cmdline())]


def restore(cluster) -> None:
    """As many nodes as there were."""
    while len(cluster.worker_nodes) < WORKERS:
        cluster.add_node(num_cpus=1)


def test_actors_killed_again_and_again(cluster, run, expected, tmp_path):
    killed = 0
    # A third time might be the third for one and the same shard, which is given up then, as it should be.
    for finished in (2, 6):
        run.wait_for_markers(finished)
        victims = [worker for node in cluster.worker_nodes for worker in workers(node)]
        victims[0].send_signal(signal.SIGKILL)
        killed += 1
    (end,) = events(run.finish(), "end")
    assert end["ok"] == ROWS
    assert content(run.out) == expected
    assert made_twice(tmp_path) <= killed * SHARDS_PER_WORKER * SHARD


def test_a_raylet_a_node_and_half_of_the_nodes_killed(cluster, run, expected, tmp_path):
    first, second, *_ = cluster.worker_nodes
    raylet(first).send_signal(signal.SIGKILL)
    run.wait_for_markers(4)
    cluster.remove_node(second, allow_graceful=False)
    run.finish()
    assert content(run.out) == expected
    assert made_twice(tmp_path) <= 2 * SHARDS_PER_WORKER * SHARD
    cluster.remove_node(first, allow_graceful=False)
    restore(cluster)


def test_half_of_the_nodes_killed_at_once(cluster, run, expected, tmp_path):
    for node in list(cluster.worker_nodes)[: WORKERS // 2]:
        cluster.remove_node(node, allow_graceful=False)
    run.finish()
    assert content(run.out) == expected
    assert made_twice(tmp_path) <= WORKERS // 2 * SHARDS_PER_WORKER * SHARD
    restore(cluster)


def test_the_driver_killed_again_and_again(cluster, run, start, expected, tmp_path):
    for finished in (2, 6):
        run.wait_for_markers(finished)
        run.kill()
        before = {path: path.stat().st_mtime_ns for path in run.out.glob("*_stats.json")}
        run = start(cluster.address, stand_in=slowly(tmp_path), actors=(WORKERS, WORKERS))
    run.finish()
    assert content(run.out) == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert made_twice(tmp_path) <= 2 * WORKERS * SHARDS_PER_WORKER * SHARD


def test_the_head_lost_and_the_job_submitted_again(start, expected, tmp_path):
    with nodes(2) as first:
        run = start(first.address, stand_in=slowly(tmp_path), actors=(2, 2))
        run.wait_for_markers(3)
        os.kill(first.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
        time.sleep(2)
        run.kill()
    kept = len(markers(run.out))
    assert 3 <= kept < ROWS // SHARD
    with nodes(2) as second:
        run = start(second.address, stand_in=slowly(tmp_path), actors=(2, 2))
        run.finish()
    assert content(run.out) == expected
    assert made_twice(tmp_path) <= 2 * SHARDS_PER_WORKER * SHARD
