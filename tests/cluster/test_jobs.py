"""`ray job submit` against a cluster that was started as people start one, behind a token."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from sdbatch.run.metrics import COUNTERS, FAILURES, GAUGES
from tests.cluster.head import RAY, started_head
from tests.conftest import REPOSITORY
from tests.outputs import content, markers, report, write_table

pytestmark = pytest.mark.cluster

TOKEN = "a-token-that-nobody-guesses-0123456789"
FAST = ("--steps", "2", "--sampler", "ddim", "--shard-size", "4", "--actors", "1")
SLOW = ("--steps", "60", "--sampler", "ddim", "--shard-size", "4", "--actors", "1")
METRIC = re.compile(r"ray_sdbatch_\w+")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text(TOKEN)
    with started_head(
        lambda _: ["--num-cpus=2"],
        dashboard=True,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_metrics_report_interval_ms="1000",
    ) as head:
        yield head


@pytest.fixture(scope="module")
def ray_job(head):
    """`ray job ARGUMENTS` with the token; returns the process."""

    def run(*arguments: object, status: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), "job", *map(str, arguments)]
        environment = head.environment | {"RAY_API_SERVER_ADDRESS": head.dashboard} | env
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert status is None or process.returncode == status, process.stdout + process.stderr
        return process

    # The port is open before the jobs' own agent is up.
    deadline = time.monotonic() + 90
    while run("list", status=None).returncode:
        assert time.monotonic() < deadline, run("list").stderr
        time.sleep(1)
    return run


@pytest.fixture
def submit(ray_job):
    def run(*job: object, options: tuple = (), status: int = 0) -> subprocess.CompletedProcess[str]:
        return ray_job("submit", *options, "--working-dir", REPOSITORY, "--", "python", *job, status=status)

    return run


def table(folder: Path, rows: int = 8) -> Path:
    return write_table(folder / "prompts.parquet", {"prompt": [f"a red circle {i}" for i in range(rows)]})


def test_nobody_gets_in_without_the_token(ray_job, tmp_path):
    (tmp_path / "wrong").write_text("another-token-altogether-9876543210")
    process = ray_job("list", status=None, RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert process.returncode != 0


def test_who_asks_without_a_token_is_told_what_is_missing(head, tmp_path):
    environment = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    command = [sys.executable, "-m", "sdbatch", "generate", "a red circle", str(tmp_path / "out")]
    process = subprocess.run(
        [*command, "--address", head.gcs_address], env=environment | {"HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 3
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"sdbatch: error: no Ray cluster could be reached at {head.gcs_address}")
    assert line.endswith("export RAY_AUTH_MODE=token)")


def test_a_job_s_log_is_plain_lines_and_its_status_the_exit_status(submit, tmp_path):
    process = submit("jobs/generate.py", table(tmp_path), tmp_path / "out", *FAST)
    assert "succeeded" in process.stdout
    assert "8 of 8 images" in process.stdout
    assert "\r" not in process.stdout
    assert len(markers(tmp_path / "out")) == 2
    verified = submit("jobs/verify.py", tmp_path / "out")
    assert "8 images in 2 shards checked, 0 bad" in verified.stdout

    bad = write_table(tmp_path / "bad" / "prompts.parquet", {"prompt": ["a red circle", ""]})
    failed = submit("jobs/generate.py", bad, tmp_path / "some", *FAST, status=1)
    assert "exit code 1" in failed.stdout
    refused = submit("jobs/generate.py", bad, tmp_path / "none", "--steps", 0, status=1)
    assert "exit code 2" in refused.stdout


def test_a_benchmark_runs_as_a_job(ray_job):
    job = ("--working-dir", REPOSITORY, "--", "python", "jobs/benchmark.py", "--steps", "4", "--lanes", "8")
    process = ray_job("submit", "--entrypoint-num-cpus", "1", *job)
    assert re.search(r"\d+\.\d\d images per second: ddim, 4 steps, guidance 7\.5", process.stdout)


def test_a_run_in_a_file_with_a_runtime_environment_and_json_lines(submit, tmp_path):
    config = {"prompts": str(table(tmp_path)), "out": str(tmp_path / "out"), "steps": 2, "sampler": "ddim", "actors": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    environment = json.dumps({"env_vars": {"OMP_NUM_THREADS": "1"}})
    process = submit(
        "jobs/generate.py", "--config", tmp_path / "run.yaml", "--log-format", "json", "--price-per-hour", 2,
        options=("--runtime-env-json", environment),
    )  # fmt: skip
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"time"')]
    assert lines[0]["event"] == "begin"
    end = lines[-1]
    assert (end["event"], end["ok"], end["exit_status"]) == ("end", 8, 0)
    assert 0 < end["lane_occupancy"] <= 1
    assert 0 < end["device_share"] <= 1
    assert end["cost_per_1000"] > 0
    assert report(tmp_path / "out")["cost_per_1000"] == end["cost_per_1000"]


def test_a_job_that_is_stopped_continues_where_it_was_and_shows_its_metrics(ray_job, submit, head, tmp_path):
    prompts, out = table(tmp_path, rows=48), tmp_path / "out"
    job = ("--working-dir", REPOSITORY, "--", "python", "jobs/generate.py", prompts, out, *SLOW)
    ray_job("submit", "--no-wait", "--submission-id", "stopped", *job)
    deadline = time.monotonic() + 200
    while len(markers(out)) < 1:
        assert time.monotonic() < deadline, ray_job("logs", "stopped").stdout
        time.sleep(0.2)
    plotted = set(METRIC.findall((REPOSITORY / "docs" / "grafana-dashboard.json").read_text()))
    promised = {f"ray_sdbatch_{name}_total" for name in (*COUNTERS, FAILURES)} | {f"ray_sdbatch_{n}" for n in GAUGES}
    assert plotted == promised
    # A counter has no series before it first counts: in this job no row fails, and no lane is halved.
    counted = promised - {"ray_sdbatch_failures_total", "ray_sdbatch_halvings_total"}
    assert counted <= scrape(head.metrics_port, counted, deadline) <= promised
    ray_job("stop", "stopped")
    assert "STOPPED" in ray_job("status", "stopped", status=None).stdout.upper()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_stats.json")}
    assert 1 <= len(before) < 12

    submit("jobs/generate.py", prompts, out, *SLOW)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    submit("jobs/generate.py", prompts, tmp_path / "whole", *SLOW)
    assert content(out) == content(tmp_path / "whole")


def scrape(port: int, expected: set[str], deadline: float) -> set[str]:
    """The names of our metrics that the node exports until all of `expected` were there, or some seconds have passed.

    The node's agent takes over what a worker sends name by name, so a single scrape may find a part of it.
    """
    names: set[str] = set()
    while not expected <= names and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        names |= {found.group() for line in lines if (found := METRIC.match(line))}
        time.sleep(0.2)
    return names
