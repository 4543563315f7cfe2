"""Everything that a run may add to a model, in a bucket: made, made again after a loss, and noticed when it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import s3fs

import sdbatch.tiny
from sdbatch.plan.planning import make_plan
from tests.diffusion.lora_checkpoints import build_lora
from tests.everything import OPTIONS, build_everything, change_lora, change_vae, write_table
from tests.outputs import content, metadata

TINY = Path(sdbatch.tiny.__file__).parent / "model"


@pytest.mark.long
def test_a_model_and_what_belongs_to_it_in_a_bucket(s3_server, bucket, tmp_path, monkeypatch, sdbatch_command):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, store = build_everything(tmp_path / "all"), s3fs.S3FileSystem(**s3_server.options)
    for name in ("model", "parts", "toy", "loras", "net", "ip"):
        store.put(f"{folder / name}/", f"{bucket}/{name}/", recursive=True)
    ip_adapter = f"{bucket}/ip/models/plain.safetensors"
    table = write_table(tmp_path, f"{bucket}/loras/one.safetensors:0.8", f"{bucket}/net", ip_adapter)
    command = ("generate", table, tmp_path / "out", *OPTIONS, "--model", f"{bucket}/model/small.safetensors")
    command += ("--vae", f"{bucket}/parts/vae", "--text-encoder", f"{bucket}/parts/text_encoder")
    command += ("--tokenizer", f"{bucket}/parts/tokenizer", "--embedding", f"<toy>={bucket}/toy/toy.safetensors")
    command += ("--storage-options", json.dumps(s3_server.options))
    out = tmp_path / "out"
    sdbatch_command(*command)
    rows = metadata(out)
    assert [row["status"] for row in rows] == ["ok"] * 4
    before = content(out)
    (out / "00001_stats.json").unlink()
    (out / rows[3]["file_name"]).unlink()
    sdbatch_command(*command)
    assert content(out) == before

    change_lora(folder)
    store.put(str(folder / "loras" / "one.safetensors"), f"{bucket}/loras/one.safetensors")
    refused = sdbatch_command(*command, status=2).stderr
    assert f"'{bucket}/loras/one.safetensors' has changed since OUT was started" in refused
    change_vae(folder / "parts", 0.5)
    store.put(f"{folder}/parts/vae/", f"{bucket}/parts/vae/", recursive=True)
    assert "vae/diffusion_pytorch_model.safetensors differ" in sdbatch_command(*command, status=2).stderr


@pytest.mark.parametrize("where", ["here", "bucket"])
def test_a_lora_that_is_replaced_during_a_run_ends_it(
    s3_server, bucket, tmp_path, monkeypatch, stand_in_command, where
):
    monkeypatch.setenv("HOME", str(tmp_path))
    first, other = (build_lora(tmp_path / f"{i}.safetensors", TINY, seed=i) for i in (1, 2))
    url = str(first) if where == "here" else f"{bucket}/one.safetensors"
    store, table = s3fs.S3FileSystem(**s3_server.options), tmp_path / "p.csv"

    def put(file: Path) -> None:
        first.write_bytes(file.read_bytes())
        if where == "bucket":
            store.put(str(file), url)

    def then_replaced(*arguments):
        plan = make_plan(*arguments)
        put(other)
        return plan

    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(first.read_bytes())
    put(kept)
    table.write_text(f"prompt,lora\na cat,\na cat,{url}\n")
    command = ("generate", table, tmp_path / "out", "--shard-size", 1, "--actors", 1)
    command += ("--storage-options", json.dumps(s3_server.options)) if where == "bucket" else ()
    with monkeypatch.context() as patch:
        patch.setattr("sdbatch.run.pipeline.make_plan", then_replaced)
        assert f"{url!r} has changed since OUT was started" in stand_in_command(*command, status=3).stderr
    assert "has changed since OUT was started" in stand_in_command(*command, status=2).stderr
    if where == "here":
        put(kept)
        stand_in_command(*command)
        assert [row["status"] for row in metadata(tmp_path / "out")] == ["ok", "ok"]
