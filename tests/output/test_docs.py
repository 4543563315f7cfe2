"""Runs each reader in docs/formats.md unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pytest

from tests.output.writing import write_output
from tests.tables import write_table

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that the page names, here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a", "", "c"]})
    for out, layout in (("out", "files"), ("out-parquet", "parquet"), ("out-webdataset", "webdataset")):
        write_output(out, prompts, layout=layout)


@pytest.mark.parametrize("block", BLOCKS, ids=[re.sub(r"\W+", "-", block)[:30] for block in BLOCKS])
def test_a_reader_on_the_page(outputs: None, ray_driver: None, block: str) -> None:
    exec(compile(block, str(PAGE), "exec"), {})


def test_every_output_column_is_on_the_page() -> None:
    from sdbatch.prompts import OUTPUT_COLUMNS

    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in OUTPUT_COLUMNS)
