"""Failing runs: the reason is reported once and clearly, and running again resumes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sdbatch.diffusion import inspect_model
from tests.conftest import Command
from tests.outputs import content, markers, metadata, write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--actors", 1)
MANY = {"prompt": [f"a red circle {i}" for i in range(48)]}


def test_weights_that_cannot_be_loaded(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 3})
    folder = tmp_path / "model"
    shutil.copytree(inspect_model("tiny").folder, folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    process = stand_in_command("generate", prompts, tmp_path / "out", *FAST, "--model", folder, status=2)
    assert "unet/diffusion_pytorch_model.safetensors: not a complete safetensors file" in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
    assert "Traceback" not in process.stderr

    weights.write_bytes(whole)
    stand_in_command("generate", prompts, tmp_path / "out", *FAST, "--model", folder, "--overwrite")
    assert [row["status"] for row in metadata(tmp_path / "out")] == ["ok"] * 3


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    (tmp_path / "file").write_text("in the way")
    process = stand_in_command("generate", prompts, tmp_path / "file" / "out", *FAST, status=2)
    assert str(tmp_path / "file" / "out") in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_a_store_that_refuses_midway_ends_the_run_with_its_reason(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"a red circle {i}" for i in range(12)]})
    out = tmp_path / "out"
    stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4, "--part", "1/3")
    # A file where shard 00002's folder must go: writing fails there, as on a store that turns read-only.
    (out / "00002").write_text("in the way")
    process = stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4, status=3)
    assert "00002" in process.stderr
    (out / "00002").unlink()
    stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4)
    assert [row["prompt"] for row in metadata(out)] == [f"a red circle {i}" for i in range(12)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some forty files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, stand_in_command: Command) -> dict[str, str]:
    """What is in an output of `MANY` that had room."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prompts = write_table(folder / "p.parquet", MANY)
    stand_in_command("generate", prompts, folder / "out", *FAST, "--shard-size", 4)
    return content(folder / "out")


def test_a_disk_that_fills_up_ends_the_run_with_its_reason_and_costs_nothing(
    tmp_path, small_disk, undisturbed, stand_in_command
):
    prompts = write_table(tmp_path / "p.parquet", MANY)
    out = small_disk / "out"
    process = stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4, status=3)
    assert "No space left on device" in process.stderr
    assert "Traceback" not in process.stderr
    done = markers(out)
    assert 0 < len(done) < 12
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4)
    assert markers(out).items() >= done.items()
    assert content(out) == undisturbed


def test_a_disk_without_room_leaves_what_an_overwrite_would_replace(tmp_path, small_disk, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8}), small_disk / "out"
    stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4)
    before = content(out)
    with (small_disk / "others").open("wb", buffering=0) as others, contextlib.suppress(OSError):
        while True:
            others.write(bytes(1024))
    write_table(tmp_path / "p.parquet", {"prompt": ["two"] * 8})
    said = stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4, "--overwrite", status=2).stderr
    assert "No space left on device" in said and len(said.splitlines()) == 1
    assert content(out) == before


def test_a_disk_that_fills_up_during_an_overwrite_costs_nothing_new(
    tmp_path, small_disk, undisturbed, stand_in_command
):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["old"] * 8}), small_disk / "out"
    stand_in_command("generate", prompts, out, *FAST, "--shard-size", 4)
    write_table(tmp_path / "p.parquet", MANY)
    arguments = ("generate", prompts, out, *FAST, "--shard-size", 4)
    assert "No space left on device" in stand_in_command(*arguments, "--overwrite", status=3).stderr
    for cut_short in [path for path in out.glob("*") if path.is_file() and not path.stat().st_size]:
        cut_short.unlink()  # what the full disk took no byte of any more; an empty marker finishes no shard
    done = markers(out)
    rows = [
        row for name in done for row in pq.read_table(out / f"{name.removesuffix('_stats.json')}.parquet").to_pylist()
    ]
    assert all(row["prompt"] != "old" for row in rows) and len(done) < 12
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    stand_in_command(*arguments)
    assert markers(out).items() >= done.items()
    assert content(out) == undisturbed


@pytest.mark.parametrize("options", [("--lanes", 7), ("--deep-cache", 2), ("--compile-sizes", "96x60")])
def test_engine_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, stand_in_command, options):
    model = tmp_path / "model"
    shutil.copytree(inspect_model("tiny").folder, model)
    config = json.loads((model / "unet" / "config.json").read_text())
    config["up_block_types"][-1] = "ResnetUpsampleBlock2D"
    (model / "unet" / "config.json").write_text(json.dumps(config))
    prompts, out = write_table(tmp_path / "prompts.parquet", {"prompt": ["a"]}), tmp_path / "out"
    for command in ("plan", "generate"):
        said = stand_in_command(command, prompts, out, "--model", model, *options, status=2).stderr
        assert len(said.splitlines()) == 1 and options[0].strip("-") in said
    assert not out.exists()


def test_sizes_to_compile_are_refused_where_nothing_is_compiled(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "prompts.parquet", {"prompt": ["a"]}), tmp_path / "out"
    said = stand_in_command("generate", prompts, out, "--device", "cpu", "--compile-sizes", "96x64", status=2).stderr
    assert "--compile-sizes: nothing is compiled on cpu; add --compile on" in said and len(said.splitlines()) == 1
    assert not list(out.iterdir())
    stand_in_command("generate", prompts, out, *FAST, "--compile", "on", "--compile-sizes", "96x64, 64x96,96x64")
    assert json.loads((out / "run.json").read_text())["engine"]["compile_sizes"] == "64x96,96x64"
