"""A model on the hub: fetched once from a stand-in of the hub, then from the cache without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.diffusion.checkpoints import build_sd
from tests.hub.server import Hub, Repository

PROGRAM = """
import sys
from sdbatch.diffusion import inspect_model
from sdbatch.errors import ModelError
try:
    parts = {"vae": sys.argv[3], "text_encoders": {"text_encoder": sys.argv[4]}} if len(sys.argv) > 3 else {}
    info = inspect_model(sys.argv[1], revision=sys.argv[2] or None, **parts)
    print("found", info.name, info.family, info.variant)
except ModelError as error:
    print("refused", error)
"""


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Repository:
    """A small checkpoint, as org/model on the hub."""
    return hub.put("org/model", build_sd(tmp_path / "sd"))


def ask(home: Path, endpoint: str, model: str, revision: str = "", *parts: str, **environment: str) -> str:
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | environment
    command = [sys.executable, "-c", PROGRAM, model, revision, *parts]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_a_model_is_fetched_once_and_then_found_offline(hub, model, tmp_path):
    endpoint = hub.endpoint
    assert ask(tmp_path, endpoint, "org/model") == "found org/model sd None"
    weights = sorted(name for name in hub.fetched if name.endswith(".safetensors"))
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    hub.fetched.clear()
    assert ask(tmp_path, endpoint, "org/model", model.head) == "found org/model sd None"
    assert hub.fetched == []
    assert ask(tmp_path, endpoint, "org/model", HF_HUB_OFFLINE="1") == "found org/model sd None"


def test_of_a_model_only_the_parts_that_are_swapped_are_fetched(hub, model, tmp_path):
    endpoint = hub.endpoint
    given = (str(tmp_path / "sd"), "", "org/model", "org/model/text_encoder")
    assert ask(tmp_path, endpoint, *given, HOME=str(tmp_path)) == "found sd sd None"
    assert {name for name in hub.fetched if name.endswith(".safetensors")} == {
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert "tokenizer/vocab.json" in hub.fetched or "tokenizer/tokenizer.json" in hub.fetched
    missing = ask(tmp_path, endpoint, *given[:3], "org/model/nothing", HOME=str(tmp_path))
    assert missing.startswith("refused --text-encoder text_encoder=org/model/nothing: has neither config.json")


def test_what_the_hub_does_not_have_is_told(hub, model, tmp_path):
    endpoint = hub.endpoint
    missing = ask(tmp_path, endpoint, "org/other")
    assert missing.startswith("refused model 'org/other': no such folder, and as a hub id:")
    assert ask(tmp_path, endpoint, "org/model", "nowhere").startswith("refused model 'org/model'")
    offline = ask(tmp_path, endpoint, "org/other", HF_HUB_OFFLINE="1")
    assert "can't be reached" in offline
