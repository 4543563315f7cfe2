"""A run that has ended leaves nothing behind in a process that goes on, such as a notebook."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.standin import StandIn
from sdbatch.errors import RunError
from sdbatch.run.pipeline import generate
from tests.conftest import connect
from tests.processes import coordinators, wait_for, workers


@pytest.fixture(autouse=True)
def without_garbage_collection() -> Iterator[None]:
    """Python frees what only errors and their tracebacks refer to when it happens to collect garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(40)))
    return str(tmp_path / "prompts.txt")


def nothing_is_left(address: str) -> bool:
    return not workers(address) and not coordinators(address)


def test_a_finished_run(ray_session, prompts, tmp_path):
    connect(ray_session)
    report = generate(prompts, str(tmp_path / "out"), make_engine=StandIn(), actors=(2, 2), shard_size=4)
    assert report.made == 40
    wait_for(lambda: nothing_is_left(ray_session), 30)


def test_a_broken_run_whose_error_is_kept(ray_session, prompts, tmp_path):
    connect(ray_session)
    stand_in = StandIn(faulty="every")
    with pytest.raises(RunError, match="engines fail repeatedly") as kept:
        generate(prompts, str(tmp_path / "out"), make_engine=stand_in, actors=(2, 2), shard_size=4)
    wait_for(lambda: nothing_is_left(ray_session), 60)
    assert kept.value.__traceback__ is not None


def test_a_lost_coordinator_ends_the_run_in_one_line_and_its_workers(ray_session, prompts, tmp_path):
    connect(ray_session)

    def kill() -> None:
        wait_for(lambda: len(workers(ray_session)) == 2 and list((tmp_path / "out").glob("*_stats.json")) != [])
        coordinators(ray_session)[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    run = {"make_engine": StandIn(step_seconds=0.5), "actors": (2, 2), "shard_size": 4, "lanes": 2}
    with pytest.raises(RunError, match="coordinates the workers ended; start the run again") as kept:
        generate(prompts, str(tmp_path / "out"), **run)
    killer.join()
    wait_for(lambda: nothing_is_left(ray_session), 60)
    assert kept.value.__traceback__ is not None
    assert 0 < len(list((tmp_path / "out").glob("*_stats.json"))) < 10
    report = generate(prompts, str(tmp_path / "out"), **run)
    assert 0 < report.made < 40
