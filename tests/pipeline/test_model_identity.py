"""One OUT, one model: whatever changes a picture is compared, by the driver and by every worker."""

from __future__ import annotations

import json
import shutil

import pytest

from sdbatch.diffusion import inspect_model
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import ModelError
from sdbatch.model_source import ModelSource
from sdbatch.run.faults.same_packages import declared
from sdbatch.run.job import Job, load_engine
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store
from tests.outputs import metadata, write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--actors", 1)


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(inspect_model("tiny").folder, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_scheduler_or_tokenizer_is_another_model(tmp_path, model, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 2})
    out, scheduler = tmp_path / "out", model / "scheduler" / "scheduler_config.json"
    command = ("generate", prompts, out, *FAST, "--model", model)
    stand_in_command(*command)
    manifest = json.loads((out / "run.json").read_text())
    assert len(manifest["model"]["identity"]) == 64
    assert "scheduler/scheduler_config.json" in manifest["model"]["files"]
    assert "tokenizer/vocab.json" in manifest["model"]["files"]

    before = scheduler.read_text()
    edit(scheduler, beta_end=0.02)
    refused = stand_in_command(*command, status=2).stderr
    assert "scheduler/scheduler_config.json differ" in refused and len(refused.strip().splitlines()) == 1
    assert "scheduler/scheduler_config.json" in stand_in_command("verify", out, "--remake", 1, status=2).stderr
    scheduler.write_text(before)
    merges = model / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text() + "\n")
    assert "tokenizer/merges.txt" in stand_in_command(*command, status=2).stderr

    # A manifest from before: the weights alone decide, as they did.
    for name in ("identity", "files", "revision", "commit", "variant"):
        del manifest["model"][name]
    (out / "run.json").write_text(json.dumps(manifest))
    stand_in_command(*command)
    assert [row["status"] for row in metadata(out)] == ["ok"] * 2


def job_of(source: ModelSource, recorded: dict) -> Job:
    return Job(
        out=Store("out"),
        settings=RunSettings(),
        columns=None,
        model=None,
        source=source,
        recorded_model=recorded,
        engine=EngineSettings(device="cpu", dtype="fp32", lanes=2, threads=1, compile="off"),
        make_engine=load_engine,
        declared=declared("text-to-image", recorded["family"]),
    )


def test_a_worker_refuses_what_is_not_the_model_of_the_run(model):
    source = ModelSource(str(model))
    recorded = source.entry(source.inspect())
    edit(model / "unet" / "config.json", act_fn="gelu")
    with pytest.raises(ModelError, match=r"/out was made with a different model .*unet/config\.json differ"):
        load_engine(job_of(source, recorded))


def test_weights_changed_while_they_are_loaded_are_noticed(model, monkeypatch):
    source = ModelSource(str(model))
    recorded = source.entry(source.inspect())

    def load(info, **settings):
        edit(info.folder / "scheduler" / "scheduler_config.json", beta_end=0.02)

    monkeypatch.setattr("sdbatch.diffusion.Engine", load, raising=False)
    with pytest.raises(ModelError, match="scheduler_config"):
        load_engine(job_of(source, recorded))


def test_what_is_recorded_finds_the_model_again_and_holds_no_secrets(model):
    source = ModelSource("org/model", "main", "fp16", options={"secret": "hush"})
    info = ModelSource(str(model)).inspect()
    entry = source.entry(info)
    assert "hush" not in json.dumps(entry) + repr(source)
    assert ModelSource.recorded(entry, {"secret": "hush"}) == source
    assert ModelSource.recorded(entry | {"commit": "0123"}, None).revision == "0123"
    assert ModelSource.recorded({"source": "org/model"}, None) == ModelSource("org/model")
