"""A process that makes no progress ends itself, even while a library holds the interpreter lock."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

WITH_THE_LOCK_HELD = "import ctypes; ctypes.PyDLL(None).sleep(60)"


def run(body: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import time\nfrom sdbatch.run.faults.watchdog import StallGuard\nguard = StallGuard(2.0)\n"
        + textwrap.dedent(body)
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("hang", ["time.sleep(60)", WITH_THE_LOCK_HELD])
def test_work_that_hangs_ends_the_process_and_leaves_its_stacks(hang):
    process = run(f"""
        with guard.working():
            {hang}
    """)
    assert process.returncode == 1
    assert "Thread 0x" in process.stderr


def test_work_in_progress_and_a_worker_without_work_are_left_alone():
    process = run("""
        with guard.working():
            for _ in range(8):
                time.sleep(0.5)
                guard.progress()
        time.sleep(3)
        print("alive")
    """)
    assert (process.returncode, process.stdout) == (0, "alive\n")
