"""--overwrite removes nothing before the new run is certain to start, and leaves no orphans."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.standin import StandInEngine
from sdbatch.diffusion import inspect_model
from sdbatch.errors import ModelError, RunError
from sdbatch.output.manifest_files import load_manifest, replace_manifest
from sdbatch.plan.planning import make_plan
from sdbatch.run import pipeline
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store
from tests.conftest import stand_in_process
from tests.outputs import content, markers, metadata, write_table
from tests.pipeline.test_manifest import as_version_1
from tests.pipeline.test_ownership import snapshot
from tests.processes import wait_for

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, stand_in_command) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    prompts = write_table(folder / "p.parquet", {"prompt": ["one"] * 12})
    stand_in_command("generate", prompts, folder / "out", *FAST)
    stand_in_command("score", folder / "out", "--scorer", "entropy")
    (folder / "out" / "00000" / "notes.txt").write_text("mine")
    (folder / "out" / "__scores__" / "99999.parquet").write_text("mine")
    return folder


@pytest.fixture
def made(tmp_path, finished) -> tuple[Path, Path]:
    """Copies of a table and its finished, scored output of three shards, with two files of somebody else in it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "p.parquet", tmp_path / "out"


def model_that_only_a_worker_can_refuse(folder: Path) -> Path:
    """Its files are whole, and one tensor is missing."""
    shutil.copytree(inspect_model("tiny").folder, folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    del tensors["conv_out.bias"]
    save_file(tensors, weights)
    return folder


def test_a_run_that_cannot_be_leaves_everything_as_it_was(made, tmp_path, sdbatch_command):
    prompts, out = made
    before = snapshot(out)
    broken = model_that_only_a_worker_can_refuse(tmp_path / "model")
    for status, *options in (
        (2, "--gpus-per-actor", 1),
        (2, "--device", "cuda"),
        (3, "--address", "127.0.0.1:9"),
        (2, "--model", "/no/such/model"),
        (2, "--sampler", "none"),
        (3, "--model", broken),
    ):
        sdbatch_command("generate", prompts, out, *FAST, "--overwrite", *options, status=status)
        assert snapshot(out) == before, options


def test_a_new_out_is_not_marked_by_a_run_that_never_started(tmp_path, ray_session, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 4}), tmp_path / "out"

    def refuse(job):
        raise ModelError("its weights lack a tensor")

    with pytest.raises(RunError, match="its weights lack a tensor"):
        pipeline.generate(str(prompts), str(out), make_engine=refuse, address=ray_session, actors=(1, 1))
    assert not (out / "run.json").exists()
    stand_in_command("generate", prompts, out, *FAST, "--lanes", 8)


def test_an_overwrite_leaves_no_orphan_and_what_is_not_ours(made, tmp_path, stand_in_command):
    prompts, out = made
    (out / "gallery").mkdir()
    (out / "gallery" / "mine.txt").write_text("mine")
    write_table(prompts, {"prompt": ["two"] * 3})
    stand_in_command("generate", prompts, out, *FAST, "--overwrite", "--image-format", "jpeg")
    stand_in_command("generate", prompts, tmp_path / "fresh", *FAST, "--image-format", "jpeg")
    own = content(out)
    for name in ("00000/notes.txt", "__scores__/99999.parquet", "gallery/mine.txt"):
        assert own.pop(name)
    assert own == content(tmp_path / "fresh")
    assert len(list(out.glob("__reports/*.json"))) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_an_overwrite_killed_midway_is_finished_by_the_next_run(made, tmp_path, stand_in_command, version):
    prompts, out = made
    if version == 1:
        as_version_1(out)
    write_table(prompts, {"prompt": ["two"] * 3})
    # Killed right after the new manifest was written, and a part of the old files removed.
    settings = RunSettings(steps=1, sampler="ddim", guidance_scale=1.0, shard_size=4, overwrite=True)
    plan = make_plan(str(prompts), str(out), settings)
    store = Store(str(out))
    replace_manifest(store, dataclasses.replace(plan.record, engine=load_manifest(store).engine))
    (out / "00001.parquet").unlink()
    assert "0 of 1 shards done" in stand_in_command("status", out, status=1).stdout
    stand_in_command("generate", prompts, out, *FAST)
    stand_in_command("generate", prompts, tmp_path / "fresh", *FAST)
    own = content(out)
    assert own.pop("00000/notes.txt") and own.pop("__scores__/99999.parquet")
    assert own == content(tmp_path / "fresh")
    assert [row["prompt"] for row in metadata(out)] == ["two"] * 3
    before = snapshot(out)
    assert "0 of them made now" in stand_in_command("generate", prompts, out, *FAST).stdout
    assert {name: snapshot(out)[name] for name in before} == before


def test_lanes_that_a_worker_measures_are_those_of_the_new_output(made, ray_session, monkeypatch):
    """As on a GPU without --lanes: one worker measures them before OUT is prepared."""
    prompts, out = made
    old = load_manifest(Store(str(out))).id
    resolve = pipeline.resolve_engine
    monkeypatch.setattr(
        pipeline, "resolve_engine", lambda *given, **more: dataclasses.replace(resolve(*given, **more), lanes=None)
    )

    def make_engine(job):
        if job.engine.lanes is None:
            assert load_manifest(Store(str(out))).id == old and len(markers(out)) == 3
        return StandInEngine(job.engine.lanes or 6, 0.01, lambda request: None)

    options = {"address": ray_session, "actors": (1, 1), "shard_size": 6, "overwrite": True}
    assert pipeline.generate(str(prompts), str(out), make_engine=make_engine, **options).made == 12
    record = load_manifest(Store(str(out)))
    assert record.engine.lanes == 6 and record.id != old
    assert [marker["run"] for marker in markers(out).values()] == [record.id] * 2


def test_a_worker_does_not_write_beside_another_run_s_shards(tmp_path, ray_session):
    """The manifest changes under a running worker: the run ends, and no marker of it is left as this OUT's."""
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"a red circle {i}" for i in range(96)]})
    out = tmp_path / "out"
    command = ("generate", prompts, out, *FAST, "--lanes", 4)
    with stand_in_process(*command, address=ray_session, step_seconds=0.3) as process:
        try:
            wait_for(lambda: len(markers(out)) >= 1)
            store = Store(str(out))
            replace_manifest(store, dataclasses.replace(load_manifest(store), id="f" * 32))
            assert process.wait(timeout=120) == 3
            assert all(marker["run"] != "f" * 32 for marker in markers(out).values())
        finally:
            process.kill()
