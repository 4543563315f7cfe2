"""Networks that rows name: fetched from a URL, and distinguished from others of the same name."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from sdbatch.diffusion import inspect_model
from sdbatch.errors import AdapterError, RunError
from sdbatch.row_networks import finder, inspect_network
from tests.diffusion.control_checkpoints import build_controlnet
from tests.diffusion.ip_adapter_checkpoints import build_ip_adapters

TINY = Path(__file__).parents[1] / "sdbatch" / "tiny" / "model"


def test_networks_come_from_urls_and_are_the_same_as_local_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("sdbatch.row_networks.MODELS", tmp_path / "cache")
    info = inspect_model("tiny")
    net = build_controlnet(tmp_path / "nets" / "canny", TINY, 1)
    adapter = build_ip_adapters(tmp_path / "ip" / "models", TINY)["plain"]
    fsspec.filesystem("memory").put(f"{tmp_path}/nets", "/networks/", recursive=True)
    fsspec.filesystem("memory").put(f"{tmp_path}/ip", "/networks/", recursive=True)
    names = {
        "controlnet": (str(net), "memory://networks/nets/canny"),
        "ip_adapter": (str(adapter), "memory://networks/ip/models/plain.safetensors"),
    }
    found = [inspect_network(setting, name, info) for setting, both in names.items() for name in both]
    assert found[0].sha256 == found[1].sha256 != found[2].sha256 == found[3].sha256
    assert found[1].source == "memory://networks/nets/canny" and found[0].source == str(net)
    with pytest.raises(AdapterError, match="no such file"):
        inspect_network("ip_adapter", "memory://networks/ip/models/none.safetensors", info)

    find = finder([network.entry() for network in found], info, "OUT")
    assert find(str(net)) == net and find(str(adapter)) == adapter
    assert (find("memory://networks/nets/canny") / "config.json").read_bytes() == (net / "config.json").read_bytes()
    build_controlnet(net, TINY, 2)
    with pytest.raises(RunError, match="has changed since OUT was started"):
        find(str(net))
    fsspec.filesystem("memory").rm("/networks", recursive=True)
