"""The page of models that run agrees with the families' declarations."""

from __future__ import annotations

import diffusers

from sdbatch.diffusion.families import FAMILIES
from sdbatch.diffusion.families.unsupported import UNSUPPORTED
from sdbatch.diffusion.samplers.catalogue import FLOW_SAMPLERS
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")


def row(first: str) -> str:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {first} |") and line.count("|") > 5]
    return line


def test_every_family_has_its_row():
    for family in FAMILIES:
        line = row(f"`{family.name}`")
        assert all(pipeline in line for pipeline in family.pipelines)
        sampler, steps = family.defaults["sampler"], family.defaults["steps"]
        assert str(sampler) in line and str(steps) in line


def test_every_pipeline_that_does_not_run_has_its_reason():
    for pipeline, reason in UNSUPPORTED.items():
        assert f"| {pipeline} | {reason} |" in PAGE
        assert hasattr(diffusers, pipeline)
    assert not UNSUPPORTED.keys() & {pipeline for family in FAMILIES for pipeline in family.pipelines}


def test_the_page_of_samplers_lists_those_of_flow_matching():
    page = (REPOSITORY / "docs" / "samplers.md").read_text(encoding="utf-8")
    for sampler in FLOW_SAMPLERS.values():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{sampler.name}` |")]
        assert sampler.label in line and all(f"`{alias}`" in line for alias in sampler.aliases)
