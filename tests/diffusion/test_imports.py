"""The engine is used on machines without Ray, and by a planner that must start fast."""

from __future__ import annotations

import subprocess
import sys


def loaded(code: str, modules: list[str]) -> str:
    code = f"import sys\n{code}\nprint([m for m in {modules!r} if m in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1]


def test_the_engine_brings_in_neither_ray_nor_storage():
    code = "import sdbatch.diffusion; sdbatch.diffusion.Engine"
    assert loaded(code, ["ray", "fsspec", "s3fs", "pyarrow"]) == "[]"


def test_validating_brings_in_no_torch():
    code = "from sdbatch.diffusion import Request, inspect_model, validate"
    assert loaded(code, ["torch", "diffusers", "transformers", "ray"]) == "[]"
