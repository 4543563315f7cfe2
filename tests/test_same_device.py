"""`--same-device`: no dataset from two kinds of GPU."""

from __future__ import annotations

import os

import pytest

from benchmarks.standin import StandIn
from sdbatch.errors import RunError
from sdbatch.run.faults.same_device import other_device
from sdbatch.run.pipeline import generate

H100 = {"device_name": "NVIDIA H100", "compute_capability": "9.0", "lanes": 64}


@pytest.mark.parametrize(
    "other, same",
    [
        (H100, True),
        (H100 | {"lanes": 32}, True),
        (H100 | {"device_name": "NVIDIA L4"}, False),
        (H100 | {"compute_capability": "8.9"}, False),
        ({}, False),
    ],
)
def test_a_kind_is_name_and_capability(other, same):
    assert (other_device(H100, other) is None) is same


@pytest.mark.parametrize("same_device", [False, True])
def test_a_second_kind_of_device_is_refused_before_it_works(ray_session, tmp_path, same_device):
    stand_in = StandIn()

    def make_engine(job):
        """Each worker is on a device of its own kind."""
        engine = stand_in(job)
        kind = {"device_name": f"GPU of {os.getpid()}"}
        engine.describe = lambda: kind
        return engine

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"prompt {i}" for i in range(40)))
    options = {"address": ray_session, "actors": (2, 2), "shard_size": 2, "same_device": same_device}
    run = [str(prompts), str(tmp_path / "out")]
    if same_device:
        with pytest.raises(RunError, match=r"--same-device: .*GPU of \d+ and GPU of \d+"):
            generate(*run, make_engine=make_engine, **options)
    else:
        assert generate(*run, make_engine=make_engine, **options).made == 40
