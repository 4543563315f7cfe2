"""Which words are a prompt, and which the name of a missing file."""

from __future__ import annotations

import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.settings import RunSettings


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle",
        "what does a cat dream of?",
        "((masterpiece)), [best quality:1.2], a red/blue square",
        "a cat.",
        "円 🔴",
        "word " * 300,  # longer than any file's name may be
        "a red circle\nand a blue one",
    ],
)
def test_words_are_a_table_of_one_row(prompt):
    (file,) = list_inputs(prompt)
    columns = check_table([file], RunSettings())
    (table,) = read_rows(file, columns, [(0, 1)])
    assert table.to_pydict() == {"prompt": [prompt]}


@pytest.mark.parametrize(
    "path",
    [
        "promts",
        "my prompts.parquet",
        "my prompts.CSV",
        "my prompts/*",
        "/data/my prompts",
        "./my prompts",
        "a folder/promts",
        "here/my prompts",
    ],
)
def test_a_path_with_a_slip_of_the_pen_is_no_prompt(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="no such file"):
        list_inputs(path)


def test_a_folder_with_a_blank_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my prompts").mkdir()
    with pytest.raises(InputError, match=r"no Parquet|no such file"):
        list_inputs("my prompts")
