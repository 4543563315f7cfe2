"""The real command with an engine that makes noise: for tests of everything around the engine.

`python -m tests.stand_in generate …` is `sdbatch generate …`, but its workers need neither torch nor a model's weights,
which take most of the time of a small run.
"""

from __future__ import annotations

import sys

from benchmarks.standin import StandIn
from sdbatch.cli import main
from sdbatch.run.pipeline import generate

STAND_IN = StandIn(step_seconds=0.0, full_size=True)

if __name__ == "__main__":
    generate.__kwdefaults__["make_engine"] = STAND_IN
    sys.exit(main())
