"""Checkpoints that the engine's tests share, built once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import checkpoints


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Widths this small don't scale over threads, and CI runs other things beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sd(tmp_path_factory) -> Path:
    return checkpoints.build_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def sd_v(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd-v"
    return checkpoints.build_sd(folder, prediction_type="v_prediction")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory) -> Path:
    return checkpoints.build_sdxl(tmp_path_factory.mktemp("models") / "sdxl")
