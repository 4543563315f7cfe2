"""A model in a bucket: fetched once, by whichever of many processes comes first, and the engine opens the copy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import s3fs

from sdbatch.diffusion import inspect_model, model_hash
from sdbatch.diffusion.models.model_identity import model_files
from sdbatch.errors import StorageError
from sdbatch.model_source import ModelSource, fetch_model

FETCH = "import sys; from pathlib import Path; from sdbatch.model_source import fetch_model; " \
        "print(fetch_model(sys.argv[1], cache=Path(sys.argv[2])))"  # fmt: skip


@pytest.fixture
def model(s3_server, bucket) -> str:
    """The packaged model, in a bucket."""
    url = f"{bucket}/models/tiny-copy"
    s3fs.S3FileSystem(**s3_server.options).put(f"{inspect_model('tiny').folder}/", url, recursive=True)
    return url


def test_processes_that_start_at_once_share_one_copy(s3_server, model, tmp_path):
    command = [sys.executable, "-c", FETCH, model, str(tmp_path / "cache")]
    environment = os.environ | s3_server.environment
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    answers = {process.communicate(timeout=120)[0].strip() for process in asked}
    assert [process.returncode for process in asked] == [0, 0, 0]
    (folder,) = answers
    assert Path(folder).name == "tiny-copy"
    assert model_hash(inspect_model(folder)) == model_hash(inspect_model("tiny"))
    assert not list(Path(folder).rglob("*.part"))


def test_a_new_etag_is_a_new_copy(s3_server, model, tmp_path):
    first = fetch_model(model, options=s3_server.options, cache=tmp_path / "cache")
    config = Path(first, "unet", "config.json").read_text()
    changed = config.replace("{", "{ ", 1)[: len(config)]  # as long as before
    s3fs.S3FileSystem(**s3_server.options).pipe_file(f"{model}/unet/config.json", changed.encode())
    assert fetch_model(model, options=s3_server.options, cache=tmp_path / "cache") != first


def test_wrong_keys_are_said_without_them(s3_server, model, tmp_path):
    wrong = s3_server.options | {"secret": "not-the-secret"}
    with pytest.raises(StorageError) as refused:
        fetch_model(model, options=wrong, cache=tmp_path / "cache")
    assert "tiny-copy" in str(refused.value)
    assert "not-the-secret" not in str(refused.value)


def test_parts_in_a_bucket_replace_those_of_a_model(s3_server, model, tmp_path, monkeypatch):
    monkeypatch.setattr("sdbatch.model_source.MODELS", tmp_path / "cache")
    monkeypatch.setattr("sdbatch.diffusion.models.swapped_parts.CACHE", tmp_path / "composed")
    encoders = {"text_encoder": f"{model}/text_encoder"}
    source = ModelSource("tiny", vae=f"{model}/vae", text_encoders=encoders, options=s3_server.options)
    info = source.inspect()
    assert model_files(info) == model_files(inspect_model("tiny"))
    assert {name for name in os.listdir(info.folder) if (info.folder / name).resolve().is_relative_to(tmp_path)} == {
        "vae",
        "text_encoder",
        "tokenizer",
    }


def test_commands_take_a_model_in_a_bucket(s3_server, model, tmp_path, monkeypatch, sdbatch_command):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out"
    command = ("generate", "a red circle", out, "--model", model, "--steps", 1, "--sampler", "ddim", "--actors", 1)
    options = ("--storage-options", json.dumps(s3_server.options))
    sdbatch_command(*command, *options)
    manifest = (out / "run.json").read_text()
    assert json.loads(manifest)["model"]["source"] == model
    assert s3_server.options["secret"] not in manifest
    again = sdbatch_command("verify", out, "--remake", 1, *options)
    assert "1 image made again from their metadata, 0 of them different" in again.stdout
    speed = sdbatch_command("bench", "--model", model, "--steps", 1, "--lanes", 2, *options)
    assert "images per second" in speed.stdout
