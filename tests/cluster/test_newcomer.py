"""Follows the README literally, with only a clone, Python and make."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.outputs import metadata
from tests.test_readme import blocks

pytestmark = pytest.mark.cluster

ACTIVATE = ". .venv/bin/activate"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The repository's files as they are now, and nothing that git ignores."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def shell(clone, tmp_path_factory) -> Iterator[Callable[..., str]]:
    """Runs a block in the clone, with an environment that knows no more than where Python and pip's packages are."""
    # Ray's socket paths must stay below 107 bytes, which pytest's own temporary folders do not.
    with tempfile.TemporaryDirectory(prefix="sdb-ray-", ignore_cleanup_errors=True) as ray:
        path = [part for part in os.environ["PATH"].split(":") if Path(part) != Path(sys.executable).parent]
        environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment |= {"PATH": ":".join(path), "HOME": str(tmp_path_factory.mktemp("home")), "RAY_TMPDIR": ray}

        def run(text: str, status: int = 0) -> str:
            process = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
            )  # fmt: skip
            assert process.returncode == status, f"{text}\n{process.stdout}"
            return process.stdout

        yield run
        stop_all_with("RAY_TMPDIR", ray)


def stop_all_with(variable: str, value: str) -> None:
    """Kill every process with that environment variable: what a README's `ray start` leaves behind."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value:
                process.kill()
        except psutil.Error:
            pass  # it has ended, or is somebody else's


def test_the_readme_word_for_word_and_then_a_table_of_one_s_own(clone, shell):
    readme = blocks(REPOSITORY / "README.md")
    installing, with_gpu, *rest = [block for block in readme if block.language == "sh"]
    assert "make install" in installing.text and "pip install torch" in with_gpu.text
    said = shell(installing.text)
    assert "demo-out/gallery/index.html" in said.splitlines()[-1]
    with Image.open(clone / "demo-out" / "sheet.png") as sheet:
        assert sheet.width > 500

    for block in rest:
        if block.needs != "hub":  # somebody's Stable Diffusion, which is not here
            shell(f"{ACTIVATE}\n{block.text}")
    for block in readme:
        if block.language == "python":
            (clone / "block.py").write_text(block.text)
            shell(f"{ACTIVATE}\npython block.py")
    assert {row["status"] for row in metadata(clone / "cluster-out")} == {"ok"}

    # What a table of one's own takes, as `--help` says it.
    said = shell(f"{ACTIVATE}\nsdbatch generate --help")
    for option in ("--column NAME=COLUMN", "--sampler NAME", "--steps N", "--layout"):
        assert option in said
    (clone / "wishes.csv").write_text("caption,cfg,who\na blue star on white,4,Ann\n,,Bob\na red ring,,Cy\n")
    generate = "sdbatch generate wishes.csv wishes/ --column prompt=caption --sampler ddim --steps 8 --layout parquet"
    shell(f"{ACTIVATE}\n{generate}", status=1)
    made = metadata(clone / "wishes")
    assert [(row["who"], row["status"], row["guidance_scale"]) for row in made] == [
        ("Ann", "ok", 4.0), ("Bob", "failed", 7.5), ("Cy", "ok", 7.5),
    ]  # fmt: skip
