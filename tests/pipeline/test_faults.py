"""The death of a worker or a read task costs only its shards, or ends the run with one line that says why."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.standin import StandIn
from sdbatch.errors import RunError
from sdbatch.run.pipeline import generate
from tests.outputs import content, metadata, write_table


def run(prompts: Path, out: Path, address: str, stand_in: StandIn, **options):
    settings = {"device": "cpu", "lanes": 4, "shard_size": 4, "actors": (2, 2), "address": address}
    return generate(str(prompts), str(out), make_engine=stand_in, **settings | options)


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_table(tmp_path / "prompts.parquet", {"prompt": [f"prompt {i}" for i in range(24)]})


def test_an_engine_that_fails_on_one_row_costs_its_shard_alone(prompts, tmp_path, ray_session):
    report = run(prompts, tmp_path / "out", ray_session, StandIn(faulty="prompt 9"))
    failed = [row for row in metadata(tmp_path / "out") if row["status"] == "failed"]
    assert (report.ok, report.failed) == (20, 4)
    assert [row["prompt"] for row in failed] == [f"prompt {i}" for i in range(8, 12)]
    assert all("ended the worker process" in row["error"] and "CUDNN_STATUS" in row["error"] for row in failed)
    run(prompts, tmp_path / "undisturbed", ray_session, StandIn())
    same = {name: hash for name, hash in content(tmp_path / "undisturbed").items() if not name.startswith("00002")}
    assert {name: content(tmp_path / "out")[name] for name in same} == same


def test_engines_that_always_fail_end_the_run_and_say_why(prompts, tmp_path, ray_session):
    with pytest.raises(RunError, match=r"repeatedly.*CUDNN_STATUS_EXECUTION_FAILED") as caught:
        run(prompts, tmp_path / "out", ray_session, StandIn(faulty="every"), actors=(1, 1))
    assert "\n" not in str(caught.value)


def test_a_worker_that_lacks_a_package_of_the_driver_says_so_and_the_run_ends(
    prompts, tmp_path, ray_session, monkeypatch
):
    """Ray Data alone would start it again and again, without a word."""
    (tmp_path / "driver_only").mkdir()
    (tmp_path / "driver_only" / "engine_of_the_driver.py").write_text("def make_engine(job): ...")
    monkeypatch.syspath_prepend(tmp_path / "driver_only")
    make_engine = importlib.import_module("engine_of_the_driver").make_engine
    with pytest.raises(RunError) as caught:
        run(prompts, tmp_path / "out", ray_session, make_engine, start_timeout=60.0)
    assert "no worker can start: ModuleNotFoundError: No module named 'engine_of_the_driver'" in str(caught.value)
    assert "packages" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_table_that_goes_while_a_run_starts_is_named_in_one_line(prompts, tmp_path, ray_session, damage):
    class Meanwhile:
        def begin(self, plan, engine, pool):
            if damage == "gone":
                prompts.unlink()
            else:
                prompts.write_bytes(prompts.read_bytes()[:100])

        def update(self, snapshot): ...
        def waiting(self, seconds, reason): ...

    with pytest.raises(RunError) as caught:
        run(prompts, tmp_path / "out", ray_session, StandIn(), progress=Meanwhile())
    text = str(caught.value)
    assert "prompts.parquet" in text and "\n" not in text and "retry attempts" not in text and len(text) < 500
