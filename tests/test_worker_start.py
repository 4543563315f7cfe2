"""The environment of a worker's process before the engine is created."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import sdbatch.diffusion
from sdbatch.diffusion.accelerate import compilation
from sdbatch.diffusion.device import headroom
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import SdbatchError
from sdbatch.model_source import ModelSource
from sdbatch.run import job as job_module
from sdbatch.run.faults.same_packages import OtherPackages, declared
from sdbatch.run.job import Job, load_engine, measure_lanes
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store


def job(make_engine=None, compile="on", device="cuda", **settings) -> Job:
    engine = EngineSettings(device=device, dtype="fp32", lanes=None, threads=None, compile=compile)
    source = ModelSource("tiny")
    return Job(
        out=Store("out"),
        settings=RunSettings(**settings),
        columns=None,
        model=None,
        source=source,
        recorded_model=source.entry(source.inspect()),
        engine=engine,
        make_engine=make_engine,
        declared=declared("text-to-image", "sd"),
    )


@pytest.fixture
def done(monkeypatch) -> list:
    done = []
    monkeypatch.setattr(headroom, "share_gpu", lambda fraction: done.append(("share", fraction)))
    monkeypatch.setattr(compilation, "keep_compiled", lambda folder: done.append(("keep", folder)))
    monkeypatch.setattr(sdbatch.diffusion, "Engine", lambda model, **options: done.append(("engine", model)))
    return done


@pytest.mark.parametrize("gpus, device, share", [(0.5, "cuda", 0.5), (None, "cuda", None), (1, "cuda", None)])
def test_half_a_gpu_is_half_its_memory(done, gpus, device, share):
    load_engine(job(gpus_per_actor=gpus, device=device))
    assert [what for what in done if what[0] == "share"] == ([] if share is None else [("share", share)])
    assert done[-1] == ("engine", ModelSource("tiny").inspect())


@pytest.mark.parametrize("compile, kept", [("on", 1), ("off", 0)])
def test_kernels_are_kept_for_other_workers_and_runs(done, compile, kept):
    load_engine(job(compile=compile))
    assert [what for what in done if what[0] == "keep"] == [("keep", job_module.COMPILED.expanduser())] * kept


def test_a_node_without_the_packages_of_the_run_says_so_and_is_avoided(done):
    """Errors other than `SdbatchError` are a fault of the node: workers are started on other nodes."""
    assert not issubclass(OtherPackages, SdbatchError)
    whole = job(compile="off", device="cpu")
    for change, words in (
        (
            {"recorded_model": {**whole.recorded_model, "family": "greys"}},
            "no package that provides the model family 'greys'",
        ),
        ({"declared": {**whole.declared, "light": "a number"}}, "'light' is none here and a number there"),
        ({"declared": {**whole.declared, "steps": "text"}}, "'steps' is a whole number"),
    ):
        with pytest.raises(OtherPackages, match=words):
            load_engine(replace(whole, **change))
    assert not done


def test_lanes_are_measured_without_compiling():
    seen = []

    def make_engine(job):
        seen.append(job.engine.compile)
        return SimpleNamespace(lanes=12, describe=lambda: {"device_name": "a GPU"})

    lanes, described = measure_lanes._function(job(make_engine))
    assert lanes == 12 and described["device_name"] == "a GPU" and "torch" in described["versions"]
    assert seen == ["off"]
