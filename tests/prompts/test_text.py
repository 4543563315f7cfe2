"""CSV, TSV, JSON Lines and one prompt per line are read like Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdbatch.errors import InputError
from sdbatch.prompts import Piece, PromptRow, check_table, list_inputs, parse, read_rows
from sdbatch.prompts import text as text_module
from sdbatch.settings import RunSettings
from tests.test_cli import sdbatch


def rows(path: Path, shard: int = 1000, **options: Any) -> list[PromptRow]:
    run = RunSettings.from_options(options)
    parsed = []
    for number, file in enumerate(files := list_inputs(str(path))):
        columns = check_table(files, run)
        ranges = [(first, min(shard, file.rows - first)) for first in range(0, file.rows, shard)]
        tables = read_rows(file, columns, ranges)
        for (first, _), table in zip(ranges, tables, strict=True):
            parsed += parse(table, columns, run, [Piece(number, first, table.num_rows)])
    return parsed


def prompts(path: Path, **options: Any) -> list[str | None]:
    return [row.requests[0].prompt for row in rows(path, **options)]


def test_csv_with_settings_quotes_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        'id,prompt,steps,cfg,seed\n007,"a cat, sitting",20,7.5,1\n'
        '008,"line one\nline two ""quoted""",20.0,,\n009,,5,,\n'
    )
    parsed = rows(path)
    assert [row.requests[0].prompt for row in parsed] == ["a cat, sitting", 'line one\nline two "quoted"', None]
    assert [row.requests[0].steps for row in parsed] == [20, 20, 5]
    assert [row.requests[0].guidance_scale for row in parsed] == [7.5, 7.5, 7.5]
    assert parsed[2].error == "prompt is empty"
    (file,) = list_inputs(str(path))
    columns = check_table([file], RunSettings())
    (table,) = read_rows(file, columns, [(0, 3)])
    assert table.column("id").to_pylist() == ["007", "008", "009"]  # text stays as it was


def test_tsv_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes('\ufeffPrompt\tCategory\r\n"PEACE" is the word\tx\r\nb, c\ty\r\n'.encode())
    assert prompts(path) == ['"PEACE" is the word', "b, c"]


def test_what_pandas_writes_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a", 'b "c", d\ne', "f"], "steps": [1, None, 3], "note": [None, "x", "y"]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    frame.to_json(tmp_path / "p.jsonl", orient="records", lines=True)
    for name in ("p.csv", "p.jsonl"):
        parsed = rows(tmp_path / name)
        assert [row.requests[0].prompt for row in parsed] == list(frame["prompt"])
        assert [row.requests[0].steps for row in parsed] == [1, 50, 3]


def test_json_lines_with_keys_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "PIECE_BYTES", 64)  # each line is a piece of its own
    lines = [
        {"prompt": "a", "steps": 5},
        {"prompt": "b " * 40, "guidance_scale": 3},
        {"prompt": "c", "guidance_scale": 7.5, "deep": {"tags": ["x", "y"]}},
        {"steps": 7},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    parsed = rows(tmp_path / "p.jsonl", shard=3)
    assert [row.requests[0].steps for row in parsed] == [5, 50, 50, 7]
    assert [row.requests[0].guidance_scale for row in parsed] == [7.5, 3.0, 7.5, 7.5]
    assert [row.error for row in parsed] == [None, None, None, "prompt is empty"]


def test_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("a red circle\r\n\r\n  \nein Bär 🐻\nlast, without an end".encode())
    assert prompts(path) == ["a red circle", "ein Bär 🐻", "last, without an end"]


def test_a_folder_of_text_files_is_one_table(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text(f"prompt\n{name}\n")
    assert prompts(tmp_path) == ["a", "b"]
    (tmp_path / "c.txt").write_text("c")
    with pytest.raises(InputError, match="holds csv and txt files"):
        list_inputs(str(tmp_path))
    assert prompts(tmp_path / "*.csv") == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "a cat,bäd"),
        ("cp1252", "ein Bär,“Straße” – 5 €"),
        ("cp1251", "красный круг на белом фоне,ещё один тест на длину"),
        ("cp1250", "červený kruh na bílém pozadí,zkouška příliš žluťoučký kůň"),
        ("utf-16", "円,🔴"),
        ("utf-32", "円,é"),
        ("utf-8-sig", "円,é"),
    ],
)
def test_other_encodings_are_found_out_and_said(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(f"prompt,note\n{text}\n".encode(encoding))
    (file,) = list_inputs(str(path))
    (table,) = read_rows(file, check_table([file], RunSettings()), [(0, 1)])
    assert [table.column(name)[0].as_py() for name in ("prompt", "note")] == text.split(",")
    assert ("is read as" in sdbatch("plan", path, tmp_path / "out").stdout) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    "content",
    [
        b"prompt,n\na,1\nb\x81d,2\n",
        b"prompt,n\na,1\nb\xe4d,2\n" + "ein Bär,3\n".encode(),
        "prompt,n\nä1\n".encode() + b"\xe4,2\n",
    ],
)
def test_text_of_no_encoding_is_refused_with_line_and_byte(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    said = sdbatch("plan", tmp_path / "p.csv", tmp_path / "out", status=2).stderr
    assert "line 3, byte 1" in said and "UTF-8" in said


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.csv", "", "is empty; its first line must name the columns"),
        ("p.csv", "prompt\na cat, sitting\n", "Expected 1 columns, got 2"),
        ("p.csv", "a cat\na dog\n", "has no column 'prompt'"),
        ("p.csv", "prompt,prompt\na,b\n", "more than one column 'prompt'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": [3]}\n', "JSON parse error"),
        ("p.jsonl", '{"prompt": "a"\n', "JSON parse error"),
        ("p.jsonl", "[1, 2]\n", "JSON parse error"),
        (
            "p.jsonl",
            '{"prompt": "a", "steps": [1]}\n',
            "column 'steps' holds list<item: int64>; expected whole numbers",
        ),
        ("p.jsonl", '{"caption": "a"}\n', "has no column 'prompt'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        rows(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and reason in str(error.value)
    assert str(error.value).isprintable()


def test_an_empty_list_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n\n")
    (tmp_path / "p.csv").write_text("prompt,id\n")
    assert rows(tmp_path / "p.txt") == rows(tmp_path / "p.csv") == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=8),
    piece=st.integers(40, 200),
    shard=st.integers(1, 9),
)
def test_any_texts_survive_csv_tsv_and_json(
    tmp_path: Path, texts: list[str], piece: int, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "PIECE_BYTES", piece + 8 * max(len(text) for text in texts))
    sink = io.StringIO(newline="")
    csv.writer(sink, quoting=csv.QUOTE_ALL).writerows([["prompt", "id"], *([text, "x"] for text in texts)])
    (tmp_path / "p.csv").write_bytes(sink.getvalue().encode())
    assert prompts(tmp_path / "p.csv", shard=shard) == texts
    plain = [" ".join(text.split()) or "x" for text in texts]
    (tmp_path / "p.tsv").write_bytes("".join(f"{text}\tx\n" for text in ["prompt", *plain]).encode())
    assert prompts(tmp_path / "p.tsv", shard=shard) == plain
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    assert prompts(tmp_path / "p.jsonl", shard=shard) == texts


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
    name=st.sampled_from(["csv", "tsv", "jsonl", "txt", "parquet"]),
)
def test_any_bytes_are_a_table_or_refused_in_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / f"p.{name}").write_bytes(content)
    try:
        rows(tmp_path / f"p.{name}")
    except InputError as error:
        assert str(error).isprintable() and str(tmp_path) in str(error)


@pytest.mark.parametrize("start", ["", "\n\n", '{"prompt": "a"}\n'])
@pytest.mark.parametrize("line", ["null", " null\r", "\tnull{}", "null-1", 'null {"prompt": "a"}'])
def test_a_line_that_is_null_is_refused_and_named(tmp_path: Path, start: str, line: str) -> None:
    """The parser would end the whole process."""
    (tmp_path / "p.jsonl").write_text(f'{start}{line}\n{{"prompt": "b"}}\n')
    number = start.count("\n") + 1
    with pytest.raises(InputError, match=f"p.jsonl: line {number} is null; each line must be an object"):
        rows(tmp_path / "p.jsonl")


@pytest.mark.parametrize("brackets", ["[", '{"a":'])
def test_json_nested_without_end_is_refused_and_not_followed(tmp_path: Path, brackets: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "x": ' + brackets * 100_000 + "\n")
    with pytest.raises(InputError, match="nested more than 256 deep"):
        list_inputs(str(path))
    path.write_text('{"prompt": "' + "[" * 100_000 + '"}\n{"prompt": "b", "x": ' + "[" * 200 + "]" * 200 + "}\n")
    assert list_inputs(str(path))[0].rows == 2


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv", "p.jsonl", "p.json", "marked.csv"])
def test_a_file_that_is_all_holes_is_refused_and_not_read_to_its_end(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfea\0\n\0" if name.startswith("marked") else b"prompt\n")
    os.truncate(path, 200 << 30)
    with pytest.raises(InputError, match=r"is longer than 128 MB|is larger than 1,024 MB, and not UTF-8"):
        list_inputs(str(path))
