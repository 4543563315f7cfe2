"""The architecture is a promise: layers import downward only, and few files know Ray."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sdbatch
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "sdbatch"
MODULES = {
    ".".join(p.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): p
    for p in PACKAGE.rglob("*.py")
}

# From the bottom up: packages and modules; the longest matching name counts. A module may import modules of its own
# line or of a lower one.
LAYERS = (
    "errors version bounds weighted_files kinds option_kinds fields typed_json once_per_node tiny",
    "diffusion.checkpoints diffusion.samplers",
    "diffusion.byte_cache diffusion.engine_choices diffusion.accelerate diffusion.embeddings diffusion.lanes"
    " diffusion.pictures.picture diffusion.request diffusion.device.gpu_room diffusion.device.hardware"
    " diffusion.device.memory diffusion.device.numerics diffusion.device.residency diffusion.device.side_streams"
    " diffusion.device.transfer diffusion.slots diffusion.syntax",
    "diffusion.adapters.net_settings",
    "diffusion.adapters.control_fields diffusion.adapters.control_rows diffusion.adapters.ip_adapter_rows"
    " diffusion.adapters.t2i_adapter_rows",
    "diffusion.adapters.net_fields",
    "diffusion.adapters diffusion.families.components diffusion.pictures diffusion.tasks diffusion.cuts",
    "diffusion.families",
    "diffusion.row_fields diffusion.guidance diffusion.model_coefficients diffusion.pictures.picture_encodings",
    "diffusion.families.family diffusion.validation diffusion.accelerate.deep_cache",
    "diffusion.families.stable_diffusion diffusion.families.stable_diffusion_xl diffusion.families.transformer",
    "diffusion.families.stable_diffusion_xl_refiner"
    " diffusion.families.flux diffusion.families.flux_2 diffusion.families.pixart_sigma"
    " diffusion.families.qwen_image diffusion.families.sana diffusion.families.stable_diffusion_3"
    " diffusion.families.z_image diffusion.families.lumina_2",
    "diffusion.families.chroma diffusion.families.sana_sprint",
    "diffusion.models diffusion.adapters.ip_adapter_loading diffusion.adapters.net_loading"
    " diffusion.calls diffusion.decoding diffusion.sampling diffusion.sampling_row",
    "diffusion.device diffusion.rescue diffusion.memory_policy",
    "diffusion",
    "scoring.expressions scoring.attempts",
    "settings resolution run_options engine_settings",
    "scoring storage",
    "model_source row_networks",
    "prompts",
    "output",
    "plan.destination plan.capacity plan.picture_sizes",
    "gallery",
    "plan",
    "run.faults run.metrics run.engine_loop run.report run.ray_internals run.job run.packed_shards run.starting",
    "run.coordinator run.worker run.cluster run.opening",
    "run.graph run.execution",
    "run",
    "cli __main__",
)
KNOW_RAY = {
    f"sdbatch.{name}"
    for name in (
        *("run.graph", "run.execution", "run.pipeline", "run.worker", "run.coordinator", "run.cluster", "run.metrics"),
        *("run.ray_internals", "run.job", "run.starting"),
        "output.dataset",
    )
}


PLACES = {f"sdbatch.{name}": number for number, names in enumerate(LAYERS) for name in names.split()}


def layer(module: str) -> int | None:
    """The number of a module's line; None for the package itself, which only hands on names."""
    while module.count("."):
        if module in PLACES:
            return PLACES[module]
        module = module.rpartition(".")[0]
    return None


@cache
def imports(path: Path) -> set[str]:
    """All modules that a file imports anywhere, for types alone and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_module(node.module, alias.name) for alias in node.names}
    return found


def _module(package: str, name: str) -> str:
    """What `from package import name` imports: a module, or a name of the package itself."""
    return f"{package}.{name}" if f"{package}.{name}" in MODULES else package


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module):
    own = layer(module)
    if own is None:
        assert module == "sdbatch", f"{module} stands in no layer"
        return
    for imported in imports(MODULES[module]):
        theirs = layer(imported)
        assert theirs is None or theirs <= own, f"{module} imports {imported}, which stands above it"


def test_no_module_imports_itself_through_others():
    graph = {module: imports(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_name_says_which_module_is_meant():
    names = Counter(path.stem for path in MODULES.values() if path.stem != "__init__")
    packages = Counter(path.parent.name for path in MODULES.values() if path.stem == "__init__")
    assert [name for name, count in (names + packages).items() if count > 1] == []


def test_ray_is_imported_in_few_files():
    users = {m for m, path in MODULES.items() if any(i.split(".")[0] == "ray" for i in imports(path))}
    assert users <= KNOW_RAY


def test_what_ray_does_not_promise_is_used_in_one_file():
    users = {m for m, path in MODULES.items() if any(re.match(r"ray\..*_(internal|private)", i) for i in imports(path))}
    assert users == {"sdbatch.run.ray_internals"}


def test_policy_imports_no_torch_and_no_ray():
    for module in (
        "sdbatch.diffusion.lanes",
        "sdbatch.run.faults.shard_attempts",
        "sdbatch.run.faults.worker_health",
        "sdbatch.prompts.shards",
    ):
        assert not {i.split(".")[0] for i in imports(MODULES[module])} & {"torch", "ray", "diffusers"}


def test_every_public_name_is_there():
    for name in sdbatch.__all__:
        assert getattr(sdbatch, name) is not None


def test_arrow_reads_in_no_threads_of_its_own():
    """One that still holds a file of Python's when the interpreter ends would abort the process, after its result."""
    threaded = []
    for name, path in MODULES.items():
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            of_ray = "batch_format" in named
            reads = call.func.attr == "iter_batches" or ast.unparse(call.func) == "pq.read_table"
            if reads and not of_ray and named.get("use_threads") != "False":
                threaded.append(f"{name}:{call.lineno}")
    assert threaded == []
