"""Arrow's CSV reader reads ahead in a thread: a process that stops reading early ends with its own status."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import REPOSITORY

SCRIPT = """
import time
from sdbatch.prompts.text import PIECE_BYTES, _csv

class Slow:
    closed, reads = False, 0

    def read(self, size=-1):
        self.reads += 1
        if self.reads > 2:
            time.sleep(1)
        return (b"a,b\\n" if self.reads == 1 else b"") + b"1,2\\n" * (PIECE_BYTES // 4)

batches = _csv(Slow(), ["a", "b"], ",", ["a"])
print(next(batches).num_rows > 0)
del batches
"""


def test_a_table_that_is_not_read_to_its_end_aborts_no_process():
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
