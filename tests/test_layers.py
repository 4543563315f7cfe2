"""The architecture is a promise: layers import downward only, and few files know Ray."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sdbatch
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "sdbatch"
MODULES = {".".join(p.relative_to(REPOSITORY).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}

# From the bottom up. A module may import what stands in its own line or in a lower one.
LAYERS = (
    "errors words",
    "diffusion",
    "settings storage storage_errors parquet",
    "prompts output shards models ledger startup stall capacity config_file",
    "record engine_config measure plan forecast status verify remake gallery report",
    "engine_loop metrics",
    "coordinator worker cluster",
    "graph execution",
    "pipeline",
    "progress log_lines",
    "cli __main__",
)
KNOW_RAY = {
    f"sdbatch.{name}"
    for name in ("graph", "execution", "pipeline", "worker", "coordinator", "cluster", "metrics", "output.dataset")
}


def layer(module: str) -> int | None:
    package, name, *_ = [*module.split("."), ""]
    if package != "sdbatch":
        return None
    for number, names in enumerate(LAYERS):
        if name in names.split():
            return number
    return None


def imports(path: Path) -> set[str]:
    """All modules that a file imports anywhere, its functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module):
    own = layer(module)
    if own is None:
        assert module.startswith("sdbatch.tiny") or module == "sdbatch.__init__", f"{module} stands in no layer"
        return
    for imported in imports(MODULES[module]):
        theirs = layer(imported)
        assert theirs is None or theirs <= own, f"{module} imports {imported}, which stands above it"


def test_ray_is_imported_in_few_files():
    users = {m for m, path in MODULES.items() if any(i.split(".")[0] == "ray" for i in imports(path))}
    assert users <= KNOW_RAY


def test_policy_imports_no_torch_and_no_ray():
    for module in ("sdbatch.diffusion.lanes", "sdbatch.ledger", "sdbatch.shards"):
        assert not {i.split(".")[0] for i in imports(MODULES[module])} & {"torch", "ray", "diffusers"}


def test_every_public_name_is_there():
    for name in sdbatch.__all__:
        assert getattr(sdbatch, name) is not None
