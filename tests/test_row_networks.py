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
from tests.diffusion.t2i_adapter_checkpoints import build_t2i_adapter

TINY = Path(__file__).parents[1] / "sdbatch" / "tiny" / "model"


def test_networks_come_from_urls_and_are_the_same_as_local_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("sdbatch.row_networks.MODELS", tmp_path / "cache")
    info = inspect_model("tiny")
    net = build_controlnet(tmp_path / "nets" / "canny", TINY, 1)
    adapter = build_ip_adapters(tmp_path / "ip" / "models", TINY)["plain"]
    t2i_adapter = build_t2i_adapter(tmp_path / "nets" / "sketch", "full_adapter_xl", 1, channels=(96, 128))
    fsspec.filesystem("memory").put(f"{tmp_path}/nets", "/networks/", recursive=True)
    fsspec.filesystem("memory").put(f"{tmp_path}/ip", "/networks/", recursive=True)
    names = {
        "controlnet": (str(net), "memory://networks/nets/canny"),
        "ip_adapter": (str(adapter), "memory://networks/ip/models/plain.safetensors"),
        "t2i_adapter": (str(t2i_adapter), "memory://networks/nets/sketch"),
    }
    found = [inspect_network(setting, name, info) for setting, both in names.items() for name in both]
    hashes = [network.sha256 for network in found]
    assert hashes[::2] == hashes[1::2] and len(set(hashes)) == 3
    assert found[1].source == "memory://networks/nets/canny" and found[0].source == str(net)
    with pytest.raises(AdapterError, match="no such file"):
        inspect_network("ip_adapter", "memory://networks/ip/models/none.safetensors", info)

    find = finder([network.entry() for network in found], info, "OUT")
    assert find(str(net)) == net and find(str(adapter)) == adapter and find(str(t2i_adapter)) == t2i_adapter
    assert (find("memory://networks/nets/canny") / "config.json").read_bytes() == (net / "config.json").read_bytes()
    build_controlnet(net, TINY, 2)
    with pytest.raises(RunError, match="has changed since OUT was started"):
        find(str(net))
    fsspec.filesystem("memory").rm("/networks", recursive=True)
