"""A table that is replaced between the plan and the reading is not made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.settings import RunSettings
from tests.tables import write_table

TEXTS = {"p.csv": "prompt\none\ntwo\n", "p.tsv": "prompt\none\ntwo\n", "p.txt": "one\ntwo\n"}
TEXTS |= {"p.jsonl": '{"prompt": "one"}\n{"prompt": "two"}\n'}


def read_after(path: Path, change) -> None:
    files = list_inputs(str(path))
    columns = check_table(files, RunSettings())
    change()
    list(read_rows(files[0], columns, [(0, 2)]))


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_changed_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name])
    read_after(path, lambda: None)
    with pytest.raises(InputError, match=rf"{name}: has changed since"):
        read_after(path, lambda: path.write_text(TEXTS[name].replace("two", "other")))
    with pytest.raises(InputError, match=rf"{name}: has changed since"):  # of the same size
        read_after(path, lambda: (path.write_text(TEXTS[name].replace("two", "six")), os.utime(path, ns=(1, 1))))
    with pytest.raises(InputError, match=rf"{name}: existed"):
        read_after(path, path.unlink)


def test_parquet_of_as_many_rows_that_changed_is_refused(tmp_path: Path) -> None:
    path = Path(write_table(tmp_path / "p.parquet", {"prompt": ["one", "two"]}))

    def change() -> None:
        write_table(path, {"prompt": ["one", "six"]})
        os.utime(path, ns=(1, 1))

    with pytest.raises(InputError, match=r"p\.parquet: has changed since"):
        read_after(path, change)
