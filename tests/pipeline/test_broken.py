"""Runs that break: the reason is said once and plainly, and running again resumes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdbatch.diffusion import inspect_model
from tests.outputs import content, markers, metadata, write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--actors", 1)


def test_weights_that_cannot_be_loaded(tmp_path, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 3})
    folder = tmp_path / "model"
    shutil.copytree(inspect_model("tiny").folder, folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    process = sdbatch_command("generate", prompts, tmp_path / "out", *FAST, "--model", folder, status=3)
    assert "unet" in process.stderr
    assert "Traceback" not in process.stderr

    weights.write_bytes(whole)
    sdbatch_command("generate", prompts, tmp_path / "out", *FAST, "--model", folder, "--overwrite")
    assert [row["status"] for row in metadata(tmp_path / "out")] == ["ok"] * 3


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    (tmp_path / "file").write_text("in the way")
    process = sdbatch_command("generate", prompts, tmp_path / "file" / "out", *FAST, status=2)
    assert str(tmp_path / "file" / "out") in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_a_store_that_refuses_midway_ends_the_run_with_its_reason(tmp_path, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"a red circle {i}" for i in range(12)]})
    out = tmp_path / "out"
    out.mkdir()
    # A file where shard 00002's folder must go: writing fails there, as on a store that turns read-only.
    (out / "00002").write_text("in the way")
    process = sdbatch_command("generate", prompts, out, *FAST, "--shard-size", 4, status=3)
    assert "00002" in process.stderr
    (out / "00002").unlink()
    sdbatch_command("generate", prompts, out, *FAST, "--shard-size", 4)
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


def test_a_disk_that_fills_up_ends_the_run_with_its_reason_and_costs_nothing(tmp_path, small_disk, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"a red circle {i}" for i in range(48)]})
    out = small_disk / "out"
    process = sdbatch_command("generate", prompts, out, *FAST, "--shard-size", 4, status=3)
    assert "No space left on device" in process.stderr
    assert "Traceback" not in process.stderr
    done = markers(out)
    assert 0 < len(done) < 12
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    sdbatch_command("generate", prompts, out, *FAST, "--shard-size", 4)
    assert markers(out).items() >= done.items()
    sdbatch_command("generate", prompts, tmp_path / "undisturbed", *FAST, "--shard-size", 4)
    assert content(out) == content(tmp_path / "undisturbed")
