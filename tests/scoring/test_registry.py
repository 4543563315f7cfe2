"""Scorers by name, from other packages, and user-defined ones."""

from __future__ import annotations

import subprocess
import sys

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageFilter

from sdbatch.diffusion import Request
from sdbatch.errors import UsageError
from sdbatch.scoring.registry import BUILT_IN, Models, find_scorers
from tests.conftest import REPOSITORY


def score(name, picture, prompt="a red circle"):
    (declared,) = find_scorers((name,))
    (found,) = declared.make(Models({}, REPOSITORY)).score([picture], [Request(prompt=prompt)])
    assert set(found) == set(declared.columns)
    return found


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "mine.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("mine", None)

    yield write
    sys.modules.pop("mine", None)


def test_phash_is_imagehashs(picture):
    assert score("phash", picture) == {"phash": str(imagehash.phash(Image.fromarray(picture)))}


def test_sharpness_and_entropy_know_blurred_and_blank_pictures(picture):
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))
    assert score("sharpness", blurred)["sharpness"] < score("sharpness", picture)["sharpness"] / 10
    blank = np.full((64, 64, 3), 7, np.uint8)
    assert score("sharpness", blank) == {"sharpness": 0.0} and score("entropy", blank) == {"entropy": 0.0}
    assert 7 < score("entropy", picture)["entropy"] <= 8


def test_a_function_of_ones_own(module, picture):
    module(
        "def width(picture, row) -> int: return picture.width\n"
        "def is_red(picture, row) -> 'bool | None': return 'red' in row['prompt']\n"
        "class A:\n"
        "    @staticmethod\n"
        "    def both(picture, row): return {'first': 1.5, 'second': 'x'}\n"
        "A.both.columns = {'first': 'number', 'second': 'text'}\n"
    )
    assert score("mine:width", picture) == {"width": 96}
    assert score("mine:is_red", picture) == {"is_red": True}
    assert score("mine:A.both", picture) == {"first": 1.5, "second": "x"}
    kinds = [declared.columns for declared in find_scorers(("mine:width", "mine:is_red", "mine:A.both"))]
    assert kinds == [{"width": "number"}, {"is_red": "flag"}, {"first": "number", "second": "text"}]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("clipp",), "did you mean 'clip'"),
        (("zzz",), "known names: aesthetic"),
        (("nowhere_at_all:f",), "can't be imported: ModuleNotFoundError"),
        (("mine:nothing",), "can't be imported: AttributeError"),
        (("mine:number",), "is not a function"),
        (("mine:attempt",), "can't be named 'attempt'"),
        (("mine:odd",), "expected name to"),
        (("entropy", "mine:entropy"), "both fill the column 'entropy'"),
    ],
)
def test_refused_in_one_line(module, names, word):
    module(
        "number = 1\n"
        "def attempt(picture, row): return 1\n"
        "def entropy(picture, row): return 1\n"
        "def odd(picture, row): return 1\n"
        "odd.columns = {'a': 'complex'}\n"
    )
    with pytest.raises(UsageError, match=word) as caught:
        find_scorers(names)
    assert "\n" not in str(caught.value)


def test_an_installed_package_brings_its_own(tmp_path, monkeypatch, picture):
    info = tmp_path / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sdbatch.scorers]\nbright = others:Bright\nbroken = others:Nothing\n")
    (tmp_path / "others.py").write_text(
        "class Bright:\n"
        "    batch, columns = 1, {'bright': 'number'}\n"
        "    make = classmethod(lambda cls, models: cls())\n"
        "    def score(self, pictures, requests): return [{'bright': float(p.max())} for p in pictures]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert score("bright", picture) == {"bright": 255.0}
    with pytest.raises(UsageError, match="others:Nothing can't be used"):
        find_scorers(("broken",))


def test_what_a_plan_needs_of_them_loads_no_network():
    names = tuple(declared.name for declared in BUILT_IN)
    code = f"from sdbatch.scoring.registry import find_scorers; find_scorers({names!r})"
    code += "; import sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
