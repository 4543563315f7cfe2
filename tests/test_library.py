"""What `import sdbatch` gives: names that are there, typed and documented, and a notebook that runs."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib.resources import files

import sdbatch
from sdbatch.storage.store import Store
from tests.conftest import REPOSITORY
from tests.output.writing import write_output
from tests.outputs import write_table

NOTEBOOK = REPOSITORY / "examples" / "library.ipynb"


def test_the_package_says_that_it_is_typed():
    assert files("sdbatch").joinpath("py.typed").is_file()


def test_public_names_are_documented_and_their_parameters_typed():
    for name in sdbatch.__all__:
        thing = getattr(sdbatch, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing) and issubclass(thing, Exception):
            continue
        parameters = inspect.signature(thing).parameters.values()
        assert not [p.name for p in parameters if p.annotation is p.empty], name


def test_the_notebook_runs_from_top_to_bottom(tmp_path, ray_session):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells), "keep outputs out of the repository"
    process = subprocess.run(
        [sys.executable, "-c", "\n\n".join(code)],
        cwd=tmp_path,
        env=os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    assert "4 made, 1 failed: {'prompt is empty': 1}" in process.stdout
    assert "000000003 yellow ok (64, 64)" in process.stdout
    assert process.stdout.count("'mean': ") == 4
    assert "no-such-table.parquet" in process.stdout.splitlines()[-1]


def test_the_first_picture_does_not_cost_a_shard(tmp_path, monkeypatch):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 200})
    write_output(str(tmp_path / "out"), str(prompts), shard_rows=200)
    read = Store.read
    names = []
    monkeypatch.setattr(Store, "read", lambda store, name, *most: names.append(name) or read(store, name, *most))
    first = next(iter(sdbatch.open(str(tmp_path / "out"))))
    assert first["image"].size == (32, 32)
    assert len(names) <= 4  # one marker on opening, which says that a shard is of this run, and one with its pictures
