"""Prompt tables on the Hugging Face hub."""

from __future__ import annotations

import hashlib

from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.settings import RunSettings
from tests.hub.server import TOKEN, Hub


def test_tables_on_the_hub(hub: Hub):
    content = b"prompt\na cat\n"
    first = hub.make("datasets/someone/prompts", {"data/p.csv": content}).head
    options = {"endpoint": hub.endpoint, "token": TOKEN}
    for folder in ("hf://datasets/someone/prompts/data", f"hf://datasets/someone/prompts@{first}/data"):
        for url in (folder, f"{folder}/p.csv", f"{folder}/*.csv"):
            (file,) = list_inputs(url, options)
            assert (file.path, file.name, file.rows) == (f"{folder}/p.csv", "p.csv", 1)
            assert file.stamp == hashlib.sha1(content).hexdigest()
            (table,) = read_rows(file, check_table([file], RunSettings()), [(0, 1)], options)
            assert table.column("prompt").to_pylist() == ["a cat"]
    hub.make("datasets/someone/prompts", {"data/p.csv": b"prompt\na dog\n"})
    (file,) = list_inputs("hf://datasets/someone/prompts/data/p.csv", options)
    assert file.stamp != hashlib.sha1(content).hexdigest()
