"""The engine is used on machines without Ray, and by a planner that must start fast."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from sdbatch.diffusion.models.lean_imports import exported


def loaded(code: str, modules: list[str]) -> str:
    code = f"import sys\n{code}\nprint([m for m in {modules!r} if m in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1]


def test_the_engine_brings_in_neither_ray_nor_storage():
    code = "import sdbatch.diffusion; sdbatch.diffusion.Engine"
    assert loaded(code, ["ray", "fsspec", "s3fs", "pyarrow"]) == "[]"


def test_validating_brings_in_no_torch():
    code = "from sdbatch.diffusion import Request, inspect_model, validate"
    assert loaded(code, ["torch", "diffusers", "transformers", "ray"]) == "[]"


def test_a_plan_brings_in_no_torch_and_no_ray(tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,sampler,steps\na red circle,heun,20\na blue square,no such sampler,20\n")
    code = f"from sdbatch.cli import main\nassert main(['plan', {str(prompts)!r}, {str(tmp_path / 'out')!r}]) == 1"
    assert loaded(code, ["torch", "diffusers", "transformers", "ray", "scipy"]) == "[]"


def test_a_unet_brings_in_no_transformers():
    code = "from sdbatch.diffusion import Engine\nengine = Engine(lanes=2, compile='off')"
    names = ["transformer_flux", "auraflow_transformer_2d", "dual_transformer_2d"]
    found = loaded(code, [f"diffusers.models.transformers.{name}" for name in names])
    assert found == "['diffusers.models.transformers.dual_transformer_2d']"


def test_scipys_statistics_are_executed_at_their_first_use_and_whole_to_all_threads():
    code = """
import threading
from sdbatch.diffusion import Engine
Engine(lanes=2, compile='off')
import scipy.stats
assert "scipy.stats._stats_py" not in sys.modules
found = []
threads = [threading.Thread(target=lambda: found.append(scipy.stats.beta.ppf(0.5, 0.6, 0.6))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert [round(value, 9) for value in found] == [0.5] * 8
from scipy.stats import norm, qmc
assert norm.cdf(0) == 0.5 and not hasattr(scipy.stats, "no such name") and "beta" in dir(scipy.stats)
"""
    assert loaded(code, ["scipy.stats._stats_py"]) == "['scipy.stats._stats_py']"


def test_the_package_of_transformers_gives_every_name_of_its_own():
    code = """
import importlib, diffusers
from sdbatch.diffusion.models.lean_imports import PACKAGE, exported, import_on_demand
import_on_demand()
package = importlib.import_module(PACKAGE)
names = exported(open(package.__file__).read())
assert len(names) > 50 and "FluxTransformer2DModel" in names
assert package.FluxTransformer2DModel is diffusers.FluxTransformer2DModel
assert all(getattr(package, name).__name__ == name for name in names)
assert not hasattr(package, "NoSuchTransformer")
"""
    assert loaded(code, ["diffusers.models.transformers"]) == "['diffusers.models.transformers']"


def test_a_package_that_does_more_than_import_is_left_alone():
    assert exported("from .a import B\nif x:\n    from .c import D, E\n") == {"B": "a", "D": "c", "E": "c"}
    assert exported("from .a import B\nB.patch()\n") is None
    assert exported("from .a import B as C\n") is None


def test_threads_spin_briefly_unless_the_environment_says_how_they_wait():
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import sdbatch.diffusion; sdbatch.diffusion.Engine; import torch; torch.ones(1 << 20).exp().sum()"

    def spins(**chosen: str) -> int:
        # The library of threads itself prints what it goes by.
        shown = own | {"OMP_DISPLAY_ENV": "VERBOSE"} | chosen
        run = subprocess.run([sys.executable, "-c", code], env=shown, stderr=subprocess.PIPE, text=True, check=True)
        return int(re.search(r"GOMP_SPINCOUNT\s*=\s*'(\d+)'", run.stderr).group(1))

    assert spins() == 10_000
    assert spins(GOMP_SPINCOUNT="5") == 5
    assert spins(OMP_WAIT_POLICY="PASSIVE") == 0
