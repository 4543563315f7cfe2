"""Models behind URLs: fetched completely, once, without pickles, even by many processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sdbatch.errors import ModelError, StorageError, UsageError
from sdbatch.model_source import fetch_model

PARTS = {
    "unet": ["UNet2DConditionModel", "config.json", "diffusion_pytorch_model.safetensors"],
    "vae": ["AutoencoderKL", "config.json", "diffusion_pytorch_model.safetensors"],
    "text_encoder": ["CLIPTextModel", "config.json", "model.safetensors"],
    "tokenizer": ["CLIPTokenizer", "vocab.json", "merges.txt", "special_tokens_map.json"],
    "scheduler": ["PNDMScheduler", "scheduler_config.json"],
}
ASK = "import os, sys; from pathlib import Path; from sdbatch.model_source import fetch_model; sys.stdin.readline(); " \
      "folder = fetch_model(sys.argv[1], cache=Path(sys.argv[2])); " \
      "print(folder, os.stat(f'{folder}/unet/diffusion_pytorch_model.safetensors').st_ino)"  # fmt: skip


@pytest.fixture
def remote(tmp_path) -> Path:
    """A model folder as hubs hold them: variants, pickles and single files lie beside what is needed."""
    folder = tmp_path / "remote" / "small-model"
    index = {"_class_name": "StableDiffusionPipeline", "image_encoder": [None, None]}
    for part, (cls, *names) in PARTS.items():
        index[part] = ["diffusers", cls]
        for name in names:
            write(folder / part / name, f"{part}/{name}")
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    write(folder / "model_index.json", json.dumps(index))
    for name in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.safetensors",
        "v1-5-pruned.safetensors",
        "README.md",
    ):
        write(folder / name, name)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(folder: str | Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in Path(folder).rglob("*") if p.is_file()}


def url(folder: Path) -> str:
    return f"file://{folder}"


@pytest.mark.parametrize("model", ["tiny", "stabilityai/stable-diffusion-2-1", "./models/mine", "/models/mine"])
def test_names_folders_and_hub_ids_pass_through(model):
    assert fetch_model(model, revision="main") == model


def test_only_what_the_engine_reads_is_fetched(remote, tmp_path):
    fetched = fetch_model(url(remote), cache=tmp_path / "cache")
    assert Path(fetched).name == "small-model"
    wanted = {f"{part}/{name}" for part, (_, *names) in PARTS.items() for name in names} | {"model_index.json"}
    everything = contents(remote)
    assert contents(fetched) == {name: everything[name] for name in wanted}


def test_a_variant_is_taken_where_a_part_has_it(remote, tmp_path):
    shards = ["diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "diffusion_pytorch_model-2.fp16.safetensors"]
    for name in shards:
        write(remote / "vae" / name, "shard")
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    write(remote / "vae" / "diffusion_pytorch_model.safetensors.index.fp16.json", json.dumps(index))
    fetched = contents(fetch_model(url(remote), variant="fp16", cache=tmp_path / "cache"))
    weights = {name for name in fetched if name.endswith(".safetensors")}
    assert weights == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        *(f"vae/{name}" for name in shards),
        "text_encoder/model.safetensors",
    }


def test_any_store_of_fsspec_will_do(remote, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, text in contents(remote).items():
        memory.pipe_file(f"/models/small-model/{name}", text.encode())
    fetched = fetch_model("memory://models/small-model", cache=tmp_path / "cache")
    assert contents(fetched)["unet/config.json"] == "unet/config.json"


def test_a_model_that_changed_is_fetched_again(remote, tmp_path):
    first = fetch_model(url(remote), cache=tmp_path / "cache")
    assert fetch_model(url(remote), cache=tmp_path / "cache") == first
    write(remote / "unet" / "config.json", "changed!")
    second = fetch_model(url(remote), cache=tmp_path / "cache")
    assert second != first
    assert contents(second)["unet/config.json"] == "changed!"


def test_a_download_that_was_cut_off_is_finished_by_the_next(remote, tmp_path):
    whole = Path(fetch_model(url(remote), cache=tmp_path / "cache"))
    (whole.parent / ".complete").unlink()
    kept = (whole / "model_index.json").stat().st_ino
    lost = whole / "unet" / "diffusion_pytorch_model.safetensors"
    lost.rename(f"{lost}.part")
    assert fetch_model(url(remote), cache=tmp_path / "cache") == str(whole)
    assert lost.read_text() == "unet/diffusion_pytorch_model.safetensors"
    assert (whole / "model_index.json").stat().st_ino == kept


def test_many_processes_that_start_at_once_share_one_download(remote, tmp_path):
    (remote / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"w" * (64 << 20))
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, url(remote), str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = {process.communicate("go\n", timeout=60)[0] for process in asked}
    assert [process.returncode for process in asked] == [0] * 4
    (answer,) = answers
    weights = Path(answer.split()[0]) / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size == 64 << 20


def test_what_cannot_be_fetched_is_said_before_anything_is_kept(remote, tmp_path):
    (remote / "vae" / "diffusion_pytorch_model.safetensors").rename(remote / "vae" / "diffusion_pytorch_model.bin")
    (remote / "vae" / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    with pytest.raises(ModelError, match="vae are pickled"):
        fetch_model(url(remote), cache=tmp_path / "cache")
    with pytest.raises(ModelError, match="model_index"):
        fetch_model(url(remote / "unet"), cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="revision"):
        fetch_model(url(remote), revision="main", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(remote, tmp_path):
    write(tmp_path / "cache", "a file, where a folder should be")
    with pytest.raises(StorageError, match=r"cannot keep .*small-model in .*cache"):
        fetch_model(url(remote), cache=tmp_path / "cache")
