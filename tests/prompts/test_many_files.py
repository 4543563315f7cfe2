"""Tables of very many small files are planned with one read per file, in time linear in their number."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest

from sdbatch.errors import InputError
from sdbatch.output import continuation
from sdbatch.output.continuation import continued
from sdbatch.output.manifest import new_record
from sdbatch.prompts import check_table, list_inputs
from sdbatch.settings import RunSettings
from sdbatch.storage import store as store_module
from sdbatch.storage.store import Store
from tests.conftest import run_here
from tests.tables import write_table

FILES = 200


@pytest.fixture(params=["csv", "jsonl", "txt", "parquet"])
def folder(request, tmp_path: Path) -> Path:
    tables = {"csv": "prompt,id\na cat,{0}\n", "jsonl": '{{"prompt": "a cat", "id": {0}}}\n', "txt": "a cat {0}\n"}
    for number in range(FILES):
        path = tmp_path / "in" / f"{number:04}.{request.param}"
        if request.param == "parquet":
            write_table(path, {"prompt": ["a cat"], "id": [number]})
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(tables[request.param].format(number))
    return tmp_path / "in"


def test_each_small_file_is_read_once_and_equal_schemas_are_one_object(folder: Path, monkeypatch) -> None:
    read, opened = [], []
    attempt = Store.read
    monkeypatch.setattr(Store, "read", lambda store, name: read.append(name) or attempt(store, name))
    monkeypatch.setattr(Store, "open", lambda *arguments, **options: opened.append(arguments))
    files = list_inputs(str(folder))
    assert len(read) == FILES and not opened
    assert [file.rows for file in files] == [1] * FILES and len({id(file.schema) for file in files}) == 1


def test_a_plan_opens_each_file_once_for_its_columns_and_once_for_its_rows(folder: Path, monkeypatch) -> None:
    read, alone = Counter(), []
    attempt = store_module.read_whole
    monkeypatch.setattr(store_module, "read_whole", lambda path, most: read.update([path]) or attempt(path, most))
    files, opened = Store.files, Store.open
    monkeypatch.setattr(Store, "files", lambda store: alone.append(store.url) or files(store))
    monkeypatch.setattr(Store, "open", lambda store, name, *more: alone.append(store.url) or opened(store, name, *more))
    process = run_here(["plan", str(folder), str(folder.parent / "out")])
    assert process.returncode == 0 and f"{FILES} rows in {FILES} files" in process.stdout
    assert {read[str(path)] for path in folder.iterdir()} == {2}
    assert not [path for path in alone if path.startswith(str(folder))]  # no look at any stamp besides


def test_a_damaged_one_among_them_is_named(folder: Path) -> None:
    damaged = sorted(folder.iterdir())[FILES // 2]
    damaged.write_bytes(b"\x00\xff\xfe\x81" * 9)
    with pytest.raises(InputError, match=damaged.name):
        list_inputs(str(folder))


def test_large_files_among_small_ones_keep_their_places(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sdbatch.prompts.inputs.SMALL_FILE_BYTES", 100)
    for number, rows in enumerate((1, 50, 2, 60, 3)):
        (tmp_path / f"{number}.csv").write_text("prompt\n" + "a cat\n" * rows)
    assert [file.rows for file in list_inputs(str(tmp_path))] == [1, 50, 2, 60, 3]


def test_inputs_that_have_all_moved_are_found_in_one_pass(tmp_path: Path, monkeypatch) -> None:
    for number in range(FILES):
        write_table(tmp_path / "in" / f"{number:04}.parquet", {"prompt": ["a cat"] * (1 + number % 3)})
    files = list_inputs(str(tmp_path / "in"))
    settings = RunSettings()
    elsewhere = [dataclasses.replace(file, path=f"/elsewhere/{os.path.basename(file.path)}") for file in files]
    started, moved = (new_record(settings, {}, found, check_table(found, settings), 4) for found in (files, elsewhere))
    calls, traits = [], continuation._traits
    monkeypatch.setattr(continuation, "_traits", lambda entry: calls.append(1) or traits(entry))
    assert [entry["path"] for entry in continued(started, moved).inputs] == [entry["path"] for entry in moved.inputs]
    assert len(calls) == 2 * FILES
