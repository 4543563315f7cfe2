"""The real command with an engine that makes noise: for tests of everything around the engine.

`python -m tests.stand_in generate …` is `sdbatch generate …`, but its workers need neither torch nor a model's weights,
which take most of the time of a small run. The variable SDBATCH_STAND_IN holds attributes of the `StandIn`, in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os

from benchmarks.standin import StandIn
from sdbatch.cli import console
from sdbatch.run.pipeline import generate

STAND_IN = StandIn(step_seconds=0.0, full_size=True, validates=True)

if __name__ == "__main__":
    changes = json.loads(os.environ.get("SDBATCH_STAND_IN", "{}"))
    generate.__kwdefaults__["make_engine"] = dataclasses.replace(STAND_IN, **changes)
    console()
