"""Whole numbers beyond 64 bits in JSON are read exactly, or refused with line and column."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import Piece, check_table, list_inputs, parse, read_rows
from sdbatch.prompts import text as text_module
from sdbatch.settings import RunSettings

LARGEST_SEED = 2**64 - 1


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> tuple[list, list[dict]]:
    """The parsed rows and the table of the first file."""
    files = list_inputs(str(path))
    columns = check_table(files, RunSettings())
    (table,) = read_rows(files[0], columns, [(0, files[0].rows)])
    return parse(table, columns, RunSettings(), [Piece(0, 0, table.num_rows)]), table.to_pylist()


def test_seeds_up_to_the_largest_and_what_is_carried_are_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "PIECE_BYTES", 64)  # small numbers and large ones in pieces of their own
    seeds = [LARGEST_SEED, -1, None, 0, 2**63, 7]
    rows = [{"prompt": f"number {seed}", "seed": seed, "id": 10**30 + i} for i, seed in enumerate(seeds)]
    parsed, table = read(write(tmp_path / "p.jsonl", rows))
    assert [row.error for row in parsed] == [None] * 6
    assert [row.requests[0].seed for row in parsed if row.requests[0].prompt not in ("number None", "number -1")] == [
        LARGEST_SEED, 0, 2**63, 7,
    ]  # fmt: skip
    assert [row["id"] for row in table] == [Decimal(10**30 + i) for i in range(6)]


def test_digits_in_text_and_floats_change_nothing(tmp_path):
    rows = [{"prompt": f"the number {10**25}", "x": 1e25, "y": [10**18]}, {"prompt": "-12345678901234567890", "x": 2}]
    _, table = read(write(tmp_path / "p.jsonl", rows))
    assert [row["prompt"] for row in table] == [row["prompt"] for row in rows]
    assert [row["x"] for row in table] == [1e25, 2.0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"n": 1.5}, {"n": 10**20}], ("line 2", "'n'", "fractions")),
        ([{"n": 1}, {"n": [1, 10**20]}], ("line 2", "'n'", "inside")),
        ([{"n": {"a": -(10**20)}}], ("line 1", "'n'", "inside")),
        ([{"n": 10**38}], ("line 1", "'n'", "38 digits")),
    ],
)
def test_what_no_type_holds_is_refused(tmp_path, rows, words):
    with pytest.raises(InputError) as error:
        read(write(tmp_path / "p.jsonl", [{"prompt": "a", **row} for row in rows]))
    assert all(word in str(error.value) for word in words) and str(error.value).isprintable()


def test_digits_without_end_are_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a", "n": 1{"0" * 5000}}}\n')
    with pytest.raises(InputError, match=r"line 1: column 'n' .* of more than 38 digits"):
        read(tmp_path / "p.jsonl")


@pytest.mark.parametrize("apart", ["pieces", "files"])
def test_fractions_elsewhere_are_seen_too(tmp_path, monkeypatch, apart):
    monkeypatch.setattr(text_module, "PIECE_BYTES", 16)
    rows = [{"prompt": "a", "n": 10**20}, {"prompt": "b", "n": 1.5}]
    if apart == "pieces":
        write(tmp_path / "p.jsonl", rows)
    else:
        write(tmp_path / "a.jsonl", rows[:1])
        write(tmp_path / "b.jsonl", rows[1:])
    with pytest.raises(InputError, match="'n' has both integers beyond 64 bits and fractions"):
        read(tmp_path)
