"""Every numeric setting of a run has bounds, wherever it is set."""

from __future__ import annotations

import pytest

import sdbatch
from sdbatch.bounds import Whole
from sdbatch.cli import main
from sdbatch.errors import UsageError
from sdbatch.settings import NUMBERS, RunSettings

NO_NUMBERS = [float("nan"), float("inf"), float("-inf"), 1e99, 10**400, True, "5", [5]]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_bounds_is_refused_with_them(name):
    option = f"--{name.replace('_', '-')}"
    fractions = [NUMBERS[name].minimum + 0.5] if isinstance(NUMBERS[name], Whole) else []
    for value in [*NO_NUMBERS, *fractions, NUMBERS[name].minimum - 1]:
        with pytest.raises(UsageError, match=f"^{option} .*expected a .*number from"):
            RunSettings.from_options({name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_commands_refuse_it_before_they_do_anything(tmp_path, capsys, name):
    option = f"--{name.replace('_', '-')}"
    for value in ("nan", "inf", "1e99", "-9999999", "1" * 5000, "abc", ""):
        for command in ("plan", "generate"):
            with pytest.raises(SystemExit, match="2"):
                main([command, "a red circle", str(tmp_path / "out"), f"{option}={value}"])
            error = capsys.readouterr().err
            assert len(error.splitlines()) == 1 and option in error and "number from" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("verify", "--sample"),
        ("verify", "--remake"),
        ("gallery", "--limit"),
        ("plan", "--images-per-second"),
        ("bench", "--steps"),
        ("bench", "--lanes"),
        ("bench", "--deep-cache"),
        ("bench", "--guidance-scale"),
    ],
)
def test_so_do_the_other_commands(tmp_path, capsys, command, option):
    for value in ("nan", "inf", "1e99", "-9999999"):
        with pytest.raises(SystemExit, match="2"):
            main([command, *([str(tmp_path)] * (command != "bench")), f"{option}={value}"])
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and option in error and "number from" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overwrite": "no"}, "--overwrite 'no'"),
        ({"overwrite": 1}, "--overwrite 1"),
        ({"model": None}, "--model None"),
        ({"sampler": 3}, "--sampler 3"),
        ({"address": "a\0b"}, "NUL"),
        ({"layout": ["files"]}, "--layout"),
        ({"column": "prompt=text"}, "--column"),
        ({"column": {"prompt": 1}}, "--column"),
        ({"storage_options": [1]}, "--storage-options"),
        ({"part": 1}, "--part"),
        ({"part": (2, 1)}, "--part 2/1"),
        ({"actors": (1, float("nan"))}, "--actors nan"),
        ({"gpus_per_actor": 1.5}, "--gpus-per-actor 1.5"),
        ({"layuot": "files"}, "did you mean 'layout'"),
    ],
)
def test_the_library_refuses_what_is_of_the_wrong_type(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        sdbatch.generate("a red circle", str(tmp_path / "out"), **options)
    assert not list(tmp_path.iterdir())
