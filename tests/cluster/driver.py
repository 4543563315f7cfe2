"""A run with the stand-in engine, in a process of its own that can be killed: python -m tests.cluster.driver JSON"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.standin import StandIn
from sdbatch.cli.log_lines import LogLines
from sdbatch.errors import SdbatchError
from sdbatch.run.pipeline import generate
from tests.conftest import REPOSITORY

__all__ = ["start"]


def start(prompts: Path, out: Path, *, stand_in: dict[str, Any], **options: Any) -> subprocess.Popen[str]:
    """Start a run; its log lines (`sdbatch.cli.log_lines`) are the process's standard output."""
    job = {"prompts": str(prompts), "out": str(out), "stand_in": stand_in, **options}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.driver", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def main(job: dict[str, Any]) -> int:
    make_engine = StandIn(**job.pop("stand_in"))
    progress = LogLines(sys.stdout)
    try:
        report = generate(**job, progress=progress, make_engine=make_engine)
    except SdbatchError as error:
        progress.fail(error)
        return error.exit_status
    progress.end(report)
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
