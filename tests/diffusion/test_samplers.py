"""Names of samplers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbatch.diffusion.samplers.catalogue import SAMPLERS, label, resolve
from sdbatch.errors import SamplerError


def test_names_aliases_labels_and_codes_resolve():
    expected = {
        "plms": "pndm",
        "DPM++ 2M Karras": "dpmpp_2m_karras",
        "Euler a": "euler_a",
        "k_euler_ancestral": "euler_a",
        "DDIM": "ddim",
        "k-dpm-2": "dpm2",
        1: "ddim",
        2: "pndm",
        4: "euler_a",
        8: "lms",
        "7": "dpm2_a",
    }
    assert {name: resolve(name) for name in expected} == expected
    for name, sampler in SAMPLERS.items():
        assert resolve(name) == resolve(sampler.label) == name


def test_labels_are_those_that_png_readers_know():
    labels = {"euler_a": "Euler a", "dpmpp_2m_karras": "DPM++ 2M Karras", "pndm": "PLMS", "ddim": "DDIM"}
    assert {name: label(name) for name in labels} == labels


def test_a_misspelt_sampler_gets_a_hint():
    with pytest.raises(SamplerError, match="did you mean 'euler'"):
        resolve("eulr")
    with pytest.raises(SamplerError, match="there are: ddpm"):
        resolve("zzz")


@pytest.mark.parametrize("name", ["DPM++ SDE", "dpmpp_sde_karras", "dpm_adaptive", 9, 0, "", None])
def test_refused_samplers_say_why(name):
    with pytest.raises(SamplerError):
        resolve(name)


def test_brownian_trees_are_refused_with_the_reason():
    with pytest.raises(SamplerError, match="Brownian tree"):
        resolve("DPM++ SDE Karras")


def test_the_docs_list_every_sampler():
    page = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
    for sampler in SAMPLERS.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{sampler.name}` |")]
        assert sampler.label in row
        assert all(f"`{alias}`" in row for alias in sampler.aliases)
