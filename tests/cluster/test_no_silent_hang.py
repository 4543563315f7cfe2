"""Anything that blocks a run is reported, with numbers, and ends the run or is overcome."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import ROWS, SHARD, events
from tests.outputs import content, metadata

pytestmark = pytest.mark.cluster


def test_a_worker_that_fits_nowhere_is_refused_with_the_numbers(cluster, start):
    (error,) = events(start(cluster.address, gpus_per_actor=3).finish(status=2), "error")
    assert "needs 1 CPU and 3 GPU" in error["text"]
    assert "largest of 3 nodes has 1 CPU and 0 GPU" in error["text"]
    assert "no autoscaler" in error["text"]


def test_waiting_for_others_to_make_room_is_said_and_ends(cluster, start):
    import ray

    ray.init(cluster.address, log_to_driver=False)
    try:
        holders = [ray.remote(num_cpus=1)(object).remote() for _ in range(2)]
        ray.get([holder.__ray_ready__.remote() for holder in holders])
        lines = start(cluster.address, start_timeout=15).finish(status=3)
    finally:
        ray.shutdown()
    (waiting,) = events(lines, "waiting")
    (error,) = events(lines, "error")
    for text in (waiting["text"], error["text"]):
        assert "needs 1 CPU and 0 GPU" in text
        assert "0 CPU and 0 GPU are free now" in text
    assert "--start-timeout" in error["text"]


def test_an_engine_that_starts_nowhere_ends_the_run_with_its_reason_once(cluster, start):
    lines = start(cluster.address, stand_in={"unfit": "every"}).finish(status=3)
    assert len(events(lines, "problem")) == 1
    (error,) = events(lines, "error")
    assert "no worker can start: RuntimeError: CUDA error: no kernel image" in error["text"]


def test_a_node_on_which_no_engine_starts_is_avoided(cluster, start):
    bad = next(iter(cluster.worker_nodes)).node_id
    lines = start(cluster.address, stand_in={"unfit": bad}).finish()
    assert len(events(lines, "problem")) == 1
    (end,) = events(lines, "end")
    assert end["ok"] == end["images"] == ROWS


def test_a_shard_that_kills_its_worker_fails_alone_after_its_third_death(cluster, start):
    run = start(cluster.address, stand_in={"deadly": "prompt 20"})
    (end,) = events(run.finish(status=1), "end")
    failed = [row for row in metadata(run.out) if row["status"] == "failed"]
    assert [row["key"][:5] for row in failed] == ["00002"] * SHARD
    assert all("ended the worker process 3 times" in row["error"] for row in failed)
    assert end["ok"] == ROWS - SHARD
    # Every shard once, the deadly one three more times, and its neighbours at its first two deaths.
    assert end["totals"]["started_shards"] <= ROWS // SHARD + 3 + 2


def test_a_shard_that_hangs_has_its_worker_started_again(cluster, start):
    lines = start(cluster.address, stand_in={"stuck": "prompt 20"}, stall_timeout=3).finish(status=1)
    (end,) = events(lines, "end")
    assert (end["ok"], end["failed"]) == (ROWS - SHARD, SHARD)


def test_parts_by_several_jobs_fill_one_output_as_one_job_would(cluster, start):
    whole = start(cluster.address, "whole")
    whole.finish()
    parts = [start(cluster.address, "parts", part=(i, 3), actors=(1, 1)) for i in (1, 2, 3)]
    for part in parts:
        part.finish()
    assert content(parts[0].out) == content(whole.out)
