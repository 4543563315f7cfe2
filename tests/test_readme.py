"""README and docs are executed: every block that can be, in an empty folder, with the real command."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.outputs import metadata, write_table

BLOCK = re.compile(r"^```(sh|python)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

# A second word after ```sh says what a block needs that is not here. Those are the only ones that are not run:
# setup is what `make install` and `make demo` do, and `tests/cluster` runs those on a cluster.
NOT_RUN = {
    "README.md": ["setup", "setup", "hub", "cluster"],
    "formats.md": ["cloud", "hub"],
    "from-python.md": ["gpu"],
    "clusters.md": ["cluster", "cluster", "cloud", "cloud", "cloud", "cloud"],
    "prompts.md": ["hub"],
    "scaling.md": ["cloud"],
    "scoring.md": ["hub"],
    "your-own-model.md": ["hub", "hub", "hub"],
}
# Its readers need outputs in every layout, which `tests/output/test_docs.py` has.
PYTHON_RUN_ELSEWHERE = ("formats.md",)
# Tables of the reader's own that a document speaks of.
TABLES = {
    "formats.md": {
        "laion.parquet": {"caption": ["a red circle"], "width": [640], "height": [481]},
    },
    "scoring.md": {"prompts.parquet": {"prompt": ["a red circle on white", "a blue cross above a green square"]}},
}


@dataclass(frozen=True)
class Block:
    language: str
    needs: str | None
    text: str


def blocks(document: Path) -> list[Block]:
    return [Block(*match.groups()) for match in BLOCK.finditer(document.read_text())]


@pytest.fixture(scope="session")
def shell(ray_session, tmp_path_factory):
    """Runs a block as a reader would: `sdbatch` and `python` are commands, and Ray is there already."""
    binaries = tmp_path_factory.mktemp("bin")
    for name, command in (("sdbatch", "-m sdbatch"), ("python", "")):
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (binaries / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_ADDRESS": ray_session,
    }

    def run(text: str, folder: Path, language: str = "sh") -> str:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert process.returncode == 0, f"{text}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    return run


def test_what_is_not_run_is_what_can_not_be():
    needs = {path.name: [block.needs for block in blocks(path) if block.needs] for path in DOCUMENTS}
    assert {name: words for name, words in needs.items() if words} == NOT_RUN


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks(path)], ids=lambda path: path.name)
def test_every_block_does_what_it_says(document, tmp_path, shell):
    for name, columns in TABLES.get(document.name, {}).items():
        write_table(tmp_path / name, columns)
    for block in blocks(document):
        elsewhere = block.language == "python" and document.name in PYTHON_RUN_ELSEWHERE
        if block.needs is None and not elsewhere:
            shell(block.text, tmp_path, block.language)


def test_links_between_the_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_a_table_never_seen_is_made_with_what_readme_says(tmp_path, shell):
    readme = (REPOSITORY / "README.md").read_text()
    assert "--column prompt=caption" in readme and "sdbatch generate prompts.csv out/" in readme
    with (tmp_path / "wishes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [
            ["Who", "caption", "steps", "cfg", "Remark, if any"],
            ["Zoë", "a small red square on gray", "7", "3.5", 'she said "red"'],
            ["李", "a big blue circle,\non white", "9", "", ""],
            ["Ann; Bob", "a green cross", "", "1", "no guidance"],
        ]
        csv.writer(file).writerows(rows)
    shell("sdbatch generate wishes.csv out/ --column prompt=caption --sampler ddim", tmp_path)
    made = metadata(tmp_path / "out")
    assert [row["Who"] for row in made] == ["Zoë", "李", "Ann; Bob"]
    assert [(row["prompt"], row["steps"], row["guidance_scale"], row["status"]) for row in made] == [
        ("a small red square on gray", 7, 3.5, "ok"),
        ("a big blue circle,\non white", 9, 7.5, "ok"),
        ("a green cross", 50, 1.0, "ok"),
    ]
    for row in made:
        with Image.open(tmp_path / "out" / row["file_name"]) as picture:
            assert picture.size == (64, 64)
