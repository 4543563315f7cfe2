"""Networks of rows in memory: at least as many as a row may have, and more while there is memory."""

from __future__ import annotations

import pytest
import torch

from sdbatch.diffusion.adapters.loaded_nets import LoadedNets
from sdbatch.diffusion.adapters.net_settings import MAX_NETS
from sdbatch.diffusion.device import spare_memory
from sdbatch.diffusion.device.spare_memory import spare_bytes

BYTES = 400  # of a network


def loaded(most: int):
    """Networks in a memory of `most` bytes; and the names that were loaded, in order."""
    names: list[str] = []
    nets: LoadedNets[torch.nn.Module] = LoadedNets(
        lambda name: names.append(name) or torch.nn.Linear(10, 10, bias=False),
        lambda: most - BYTES * len([*nets]),
    )
    return nets, names


@pytest.mark.parametrize(("most", "kept"), [(0, MAX_NETS), (7 * BYTES, 7), (7 * BYTES - 1, 6), (1 << 40, 10)])
def test_memory_bounds_how_many_are_kept(most, kept):
    nets, names = loaded(most)
    for i in range(10):
        nets[str(i)]
    assert list(nets) == [str(i) for i in range(10 - kept, 10)]
    nets["9"], nets["10"]
    assert names == [str(i) for i in range(11)]


def test_after_memory_has_run_out_few_are_kept():
    nets, names = loaded(1 << 40)
    for i in range(6):
        nets[str(i)]
    assert nets.shrink() and list(nets) == ["2", "3", "4", "5"] and not nets.shrink()
    nets["6"]
    assert list(nets) == ["3", "4", "5", "6"] and len(names) == 7


def test_spare_memory_on_a_cpu_respects_the_container(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(spare_memory, "GROUPS", ((limit, used),))
    free = spare_bytes(torch.device("cpu"))
    assert free > 0
    used.write_text("1000\n")
    for content, expected in (("max\n", pytest.approx(free, rel=0.5)), ("3000\n", 1000), ("500\n", 0)):
        limit.write_text(content)
        assert spare_bytes(torch.device("cpu")) == expected
    monkeypatch.setattr(spare_memory, "MEMINFO", tmp_path / "none")
    assert spare_bytes(torch.device("cpu")) == spare_bytes(torch.device("meta")) == 0
