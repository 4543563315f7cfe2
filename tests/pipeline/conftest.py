"""A finished output, made once, of which each test has a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.outputs import write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, stand_in_command: Command) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_table(folder / "in" / "m.parquet", {"prompt": ["one"] * 8, "id": list(range(8))})
    # As earlier versions compressed PNGs; runs that continue it need not say so.
    stand_in_command("generate", folder / "in", folder / "out", *FAST, "--compression", "small")
    return folder


@pytest.fixture
def made(tmp_path: Path, finished: Path) -> tuple[Path, Path]:
    """A folder of one table, and its finished output of two shards with the settings `FAST`: copies for one test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "in", tmp_path / "out"
