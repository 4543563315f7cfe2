"""The page of models that run agrees with the families' declarations."""

from __future__ import annotations

import re

import diffusers

from sdbatch.diffusion.families import FAMILIES
from sdbatch.diffusion.families.unsupported import UNSUPPORTED
from sdbatch.diffusion.samplers.catalogue import FLOW_SAMPLERS
from sdbatch.diffusion.tasks import ENGINE_TASKS
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


def test_the_page_of_pictures_has_the_defaults_of_the_tasks():
    page = (REPOSITORY / "docs" / "pictures-as-input.md").read_text(encoding="utf-8")
    for task in ENGINE_TASKS.values():
        own = {field.name for field in task.fields}
        declared = {
            (name, float(value))
            for defaults in (task.defaults, *task.family_defaults.values())
            for name, value in defaults.items()
            if name in own
        }
        lines = "\n".join(line for line in page.splitlines() if line.startswith(f"| `{task.name}` |"))
        written = {
            (name, float(number))
            for name, numbers in re.findall(r"`(\w+)` \(([^)]*)\)", lines)
            for number in re.findall(r"\d+(?:\.\d+)?", numbers)
            if name in own
        }
        assert written == declared, task.name
