"""Each form of table that other tools write, made by the tool that makes it, gives the rows that CSV gives."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from sdbatch.errors import InputError, UsageError
from sdbatch.prompts import (
    arrow_messages,
    check_table,
    find_inputs,
    list_inputs,
    read_rows,
    read_table,
    reading,
    text,
    unfolded_sizes,
    workbooks,
)
from sdbatch.prompts.pieces import Piece
from sdbatch.settings import RunSettings
from tests.prompts.test_other_texts import EXPECTED, FRAME, told
from tests.prompts.test_text import rows
from tests.tables import write_table
from tests.test_cli import sdbatch

TABLE = pa.Table.from_pandas(FRAME, preserve_index=False)


def stream(path: Path, **options: Any) -> None:
    with pa.ipc.new_stream(path, TABLE.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def ipc_file(path: Path) -> None:
    with pa.ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def dictionaries(path: Path) -> None:
    table = TABLE.set_column(0, "prompt", TABLE.column("prompt").dictionary_encode())
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def polars(name: str) -> Callable[[Path], object]:
    """A file that polars 2.1 wrote of the same rows; as files, its Arrow has no stream in front of the footer."""
    return lambda path: shutil.copy(Path(__file__).parent / "polars" / name, path)


def spark(path: Path) -> None:
    """Spark's layout: parts, one of them without rows, and what Hadoop leaves beside them."""
    path.mkdir()
    (path / "_SUCCESS").touch()
    for number, part in enumerate((FRAME[:2], FRAME[:0], FRAME[2:])):
        name = f"part-{number:05d}-8a1e3c5c-77aa-4d4d-9d9d-0123456789ab-c000"
        if path.suffix == ".csv":
            part.to_csv(path / f"{name}.csv", index=False, header=len(part) > 0)
        else:
            part.to_json(path / f"{name}.json", orient="records", lines=True)
            (path / f"{name}.json").write_bytes((path / f"{name}.json").read_bytes().lstrip(b"\n"))
        (path / f".{name}{path.suffix}.crc").write_bytes(b"crc\0")


MADE: dict[str, Callable[[Path], object]] = {
    "p.arrow": ipc_file,
    "dictionaries.ipc": dictionaries,
    "stream.arrow": stream,
    "packed.arrows": lambda path: stream(path, compression="zstd"),
    "p.feather": FRAME.to_feather,
    "plain.feather": lambda path: pyarrow.feather.write_feather(TABLE, path, compression="uncompressed"),
    "p.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "saved": lambda path: datasets.Dataset.from_pandas(FRAME).save_to_disk(path, num_shards=2),
    "polars.arrow": polars("plain.arrow"),
    "polars.ipc": polars("categories.arrow"),
    "polars.xlsx": polars("prompts.xlsx"),
    "spark.csv": spark,
    "spark.json": spark,
    "duckdb.json": lambda path: duckdb.sql(f"COPY (FROM FRAME) TO '{path}'"),
    "datasets.json": lambda path: datasets.Dataset.from_pandas(FRAME).to_json(path),
    "duckdb.parquet": lambda path: duckdb.from_arrow(TABLE).write_parquet(str(path)),
}


@pytest.mark.parametrize("name", MADE)
def test_forms(tmp_path, name):
    MADE[name](tmp_path / name)
    assert told(tmp_path / name) == EXPECTED
    assert [row.requests[0].prompt for row in rows(tmp_path / name, shard=2)] == [prompt for prompt, _, _ in EXPECTED]
    said = sdbatch("plan", tmp_path / name, tmp_path / "out").stdout
    assert "3 rows in" in said and "bad rows  none" in said and "left out" not in said


def test_blocks_that_overlap_are_refused(tmp_path):
    table = pa.table({"prompt": ["a cat"] * 1000})
    with pa.ipc.new_file(tmp_path / "p.arrow", table.schema) as writer:
        for _ in range(100):
            writer.write_table(table)
    whole = (tmp_path / "p.arrow").read_bytes()
    assert sum(list_inputs(str(tmp_path / "p.arrow"))[0].row_groups) == 100_000
    (tmp_path / "p.arrow").write_bytes(whole[:8] + whole[len(whole) // 2 :])  # half of the blocks, all in the footer
    with pytest.raises(InputError, match="is not Arrow's format, or damaged"):
        list_inputs(str(tmp_path / "p.arrow"))


def test_text_numbers_and_flags_in_one_column_of_json(tmp_path, monkeypatch):
    seeds = [-1, 2**64 - 1, None, "12", 12, "3.0", True]
    rows_of_seeds = [{"prompt": "a", "seed": seed, "id": [1]} for seed in seeds]
    (tmp_path / "p.json").write_text(json.dumps(rows_of_seeds))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of_seeds))
    for name in ("p.json", "p.jsonl"):
        for piece in (text.PIECE_BYTES, 40):
            monkeypatch.setattr(text, "PIECE_BYTES", piece)
            made = rows(tmp_path / name)
            assert [row.requests[0].seed for row in made[1:6] if row.requests[0].seed < 2**31] == [
                made[2].requests[0].seed,
                12,
                12,
                3,
            ]
            assert made[1].requests[0].seed == 2**64 - 1
            assert [row.error for row in made] == [None] * 6 + ["seed is true; must be a number"]
        said = sdbatch("plan", tmp_path / name, tmp_path / "out", status=1).stdout
        assert f"{tmp_path / name} has text beside other values in 'seed', read as text" in said
    values = [*range(10), "ten", 2.5, True, "2020-01-01", None]
    theirs = [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": "a", "x": value}) + "\n" for value in values))
    (file,) = list_inputs(str(tmp_path / "p.jsonl"))
    (table,) = read_rows(file, check_table([file], RunSettings()), [(0, len(values))])
    assert table.column("x").to_pylist() == theirs


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.zip", b"PK", "sdbatch does not read this format; it reads Parquet, CSV"),
        ("p.parquet.gz", gzip.compress(b"PAR1", mtime=0), "only text is read compressed"),
        (
            "p.csv",
            gzip.compress(b"prompt\na\n", mtime=0),
            r"is compressed, .*; rename it to .*p\.csv\.gz",
        ),
        ("p.json", FRAME.to_json().encode(), 'is laid out by columns; write it by rows, with orient="records"'),
    ],
)
def test_what_is_no_table_by_its_name_or_beginning(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        list_inputs(str(tmp_path / name))


def test_a_table_in_a_list_of_prompts_is_said(tmp_path):
    FRAME.to_csv(tmp_path / "p.txt", sep="\t", index=False, encoding="utf-16")  # Excel's "Unicode text"
    said = sdbatch("plan", tmp_path / "p.txt", tmp_path / "out").stdout
    assert "p.txt begins with names of columns, which are read as a prompt; name it .csv or .tsv" in said
    (tmp_path / "p.txt").write_text("a prompt, on time\n")
    assert "names of columns" not in sdbatch("plan", tmp_path / "p.txt", tmp_path / "out").stdout


def test_only_record_batches_that_are_needed_are_decoded(tmp_path, monkeypatch):
    table = pa.table({"prompt": [f"number {i}" for i in range(1000)]})
    with pa.ipc.new_file(tmp_path / "p.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    (file,) = list_inputs(str(tmp_path / "p.arrow"))
    assert file.row_groups == (10,) * 100
    columns = check_table([file], RunSettings())
    first, second = read_rows(file, columns, [(5, 10), (995, 5)])
    assert first.column("prompt").to_pylist() == [f"number {i}" for i in range(5, 15)]
    assert second.column("prompt").to_pylist() == [f"number {i}" for i in range(995, 1000)]


def test_damaged_arrow_files_end_in_one_line(tmp_path):
    path = tmp_path / "p.arrow"
    ipc_file(path)
    whole, dice = path.read_bytes(), random.Random(5)
    for _ in range(100):
        content = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content[: dice.randrange(len(content))] if dice.random() < 0.2 else content)
        try:
            if list_inputs(str(path))[0].rows < 1000:  # a file may say that it has any number
                rows(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_arrow_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_messages, "MAX_BODY_BYTES", 1 << 20)
    table = pa.table({"prompt": ["a" * (2 << 20)]})
    for name, options in {"packed.arrow": {"compression": "zstd"}, "plain.arrow": {}}.items():
        with pa.ipc.new_stream(tmp_path / name, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
        with pytest.raises(InputError, match="in one record batch; write it in smaller ones"):
            rows(tmp_path / name)


def test_texts_that_lie_on_top_of_each_other(tmp_path, monkeypatch):
    """Views and dictionaries say in a kilobyte what takes a terabyte."""
    monkeypatch.setattr(reading, "MAX_TABLE_BYTES", 1 << 20)
    monkeypatch.setattr(unfolded_sizes, "MAX_PIECE_BYTES", 1 << 18)
    count, text = 2_000_000, "x" * 10_000
    views = np.tile(np.array([len(text), 0x78787878, 0, 0], np.int32), count)
    columns = {
        "views": pa.Array.from_buffers(
            pa.string_view(), count, [None, pa.py_buffer(views), pa.py_buffer(text.encode())]
        ),
        "dictionary": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [text]),
    }
    for name, column in columns.items():
        path, schema = tmp_path / f"{name}.arrow", pa.schema([("prompt", column.type)])
        with pa.ipc.new_file(path, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
        assert path.stat().st_size < 10_000
        with pytest.raises(InputError, match=r"rows 0 to [\d,]+ hold more than"):
            rows(path, shard=10_000)
        (file,) = list_inputs(str(path))
        (table,) = read_rows(file, check_table([file], RunSettings()), [(count - 3, 3)])
        assert table.column("prompt").to_pylist() == [text] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"FEA1" + bytes(100), "is Feather version 1"),
        (b"ARROW1\0\0" + bytes(100), "is cut short"),
        (b"prompt\na cat\n", "is not Arrow's format"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "is not Arrow's format"),
    ],
)
def test_what_is_no_arrow_file(tmp_path, content, words):
    (tmp_path / "p.arrow").write_bytes(content)
    with pytest.raises(InputError, match=words):
        list_inputs(str(tmp_path / "p.arrow"))


def test_a_saved_data_set_is_what_it_names(tmp_path):
    saved = datasets.Dataset.from_pandas(FRAME)
    saved.save_to_disk(tmp_path / "one")
    ipc_file(tmp_path / "one" / "cache-1234.arrow")  # as `map` leaves it
    assert [Path(file.path).name for file in list_inputs(str(tmp_path / "one"))] == ["data-00000-of-00001.arrow"]
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match=r"several splits; name one of them: .*two/train or .*two/test"):
        list_inputs(str(tmp_path / "two"))
    assert told(tmp_path / "two" / "test") == EXPECTED
    saved.select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(InputError, match="none: holds a data set without rows"):
        list_inputs(str(tmp_path / "none"))
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"is missing, and state\.json names it"):
        list_inputs(str(tmp_path / "one"))


def test_workbooks(tmp_path):
    path = tmp_path / "p.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    for place, value in {"B3": "prompt", "C3": "steps", "D3": "seed", "E3": "when", "F3": "flag"}.items():
        sheet[place] = value
    for place, value in {
        "B4": "ein Würfel",
        "C4": 7,
        "D4": 12,
        "E4": pd.Timestamp("2020-01-02 03:04"),
        "F4": True,
    }.items():
        sheet[place] = value
    sheet["B6"] = "after an empty row"
    book.create_sheet("more")["A1"] = "left out"
    book.save(path)
    assert told(path) == [("ein Würfel", 7, None), ("after an empty row", 50, None)]
    (file,) = list_inputs(str(path))
    (table,) = read_rows(file, check_table([file], RunSettings()), [(0, 2)])
    assert table.column("when").to_pylist() == ["2020-01-02T03:04:00", None]
    assert table.column("flag").to_pylist() == ["true", None]
    said = sdbatch("plan", path, tmp_path / "out").stdout
    assert f"{path} is read from its first sheet, 'Sheet'; its 1 other left out" in said


def test_what_a_workbook_does_not_hold_is_said(tmp_path):
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active["A1"] = "read me"
    prompts = book.create_sheet("Prompts")
    for row in (["prompt", "seed"], ["a cat", "=1+1"]):
        prompts.append(row)
    book.save(tmp_path / "p.xlsx")
    with pytest.raises(InputError, match=r"\(read from its first sheet, 'Notes'; its 1 other left out; .*\): has no"):
        rows(tmp_path / "p.xlsx")
    book.remove(book["Notes"])
    book.save(tmp_path / "p.xlsx")
    said = sdbatch("plan", tmp_path / "p.xlsx", tmp_path / "out").stdout
    assert "p.xlsx has formulas without results, which are read as empty cells" in said
    prompts["B2"] = 5
    book.save(tmp_path / "p.xlsx")
    assert "formulas" not in sdbatch("plan", tmp_path / "p.xlsx", tmp_path / "out").stdout


# Forty cells with the second prompt.
CELLS = b"".join(b'<row r="%d"><c r="A%d" t="s"><v>3</v></c></row>' % (i, i) for i in range(10, 50))


def test_workbooks_that_are_none(tmp_path, monkeypatch):
    path = tmp_path / "p.xlsx"
    far = openpyxl.Workbook()
    far.active["A1"], far.active["XFD1048576"] = "prompt", "far"
    far.save(path)
    with pytest.raises(InputError, match="spread over 1,048,576 rows and 16,384 columns"):
        list_inputs(str(path))
    FRAME.to_excel(path, index=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match="is not an Excel workbook, or damaged"):
        list_inputs(str(path))
    path.write_bytes(b"prompt\n")
    with pytest.raises(InputError, match="is not an Excel workbook, or damaged"):
        list_inputs(str(path))
    monkeypatch.setattr(workbooks, "MAX_UNPACKED_BYTES", 1 << 20)
    packed = io.BytesIO(whole)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/more.xml", bytes(2 << 20))
    # The archive says of it that it is small.
    path.write_bytes(packed.getvalue().replace((2 << 20).to_bytes(4, "little"), (9).to_bytes(4, "little")))
    with pytest.raises(InputError, match="is larger than 1 MB unpacked"):
        list_inputs(str(path))
    # A text that all cells refer to. Excel writes it so, but not openpyxl.
    monkeypatch.setattr(workbooks, "MAX_TEXT_BYTES", 1 << 20)
    shared = Path(__file__).parent / "polars" / "prompts.xlsx"
    assert told(shared) == EXPECTED
    with zipfile.ZipFile(shared) as book, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in book.namelist():
            content = book.read(name)
            if name.endswith("sharedStrings.xml"):
                content = content.replace(b"ein W", b"x" * 30_000)
            bomb.writestr(name, content.replace(b"</sheetData>", CELLS + b"</sheetData>"))
    with pytest.raises(InputError, match="its cells hold more than 1 MB of text"):
        list_inputs(str(path))


DIFFERING = [
    {
        "prompt": ["a"],
        "steps": pa.array([5]),
        "id": pa.array([1]),
        "flag": [True],
        "wide": pa.array([2**63], pa.uint64()),
    },
    {"prompt": pa.array(["b"], pa.large_string()), "steps": pa.array([7.0]), "more": ["x"], "flag": pa.array([3])},
    {"prompt": ["c"], "id": ["text"], "steps": pa.array([None], pa.int32()), "wide": pa.array([-1])},
]


def test_files_that_differ_are_united_by_name_as_duckdb_does(tmp_path):
    for number, columns in enumerate(DIFFERING):
        write_table(tmp_path / f"{number}.parquet", columns)
    files = list_inputs(str(tmp_path))
    columns = check_table(files, RunSettings())
    (table,) = read_table(files, columns, [[Piece(number, 0, 1) for number in range(3)]])
    united = duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path}/*.parquet', union_by_name=true)").to_arrow_table()
    names = [name for name in table.column_names if name not in columns.sources]
    assert set(names) == set(united.column_names)
    for name in names:
        theirs = united.column(name).to_pylist()
        assert table.column(name).to_pylist() == [int(v) if name == "wide" and v is not None else v for v in theirs], (
            name
        )
    said = sdbatch("plan", tmp_path, tmp_path / "out").stdout
    (line,) = [line for line in said.splitlines() if "the files' columns differ" in line]
    assert "'steps' (int64 in 0.parquet, double in 1.parquet, int32 in 2.parquet) is read as double" in line
    assert "'more' is missing in 0.parquet, and null there" in line


def test_files_that_do_not_go_together(tmp_path):
    write_table(tmp_path / "0.parquet", {"prompt": ["a"], "id": [1]})
    write_table(tmp_path / "1.parquet", {"prompt": ["a"], "id": [[1]]})
    with pytest.raises(InputError, match=r"1\.parquet: column 'id' holds list.*; in .*0\.parquet it holds int64"):
        check_table(list_inputs(str(tmp_path)), RunSettings())
    write_table(tmp_path / "1.parquet", {"prompt": [b"a"], "id": [1]})
    with pytest.raises(InputError, match=r"1\.parquet: column 'prompt' holds binary; expected text"):
        check_table(list_inputs(str(tmp_path)), RunSettings())
    write_table(tmp_path / "1.parquet", {"caption": ["a"], "id": [1]})
    with pytest.raises(InputError, match=r"1\.parquet: has no column 'prompt'"):
        check_table(list_inputs(str(tmp_path)), RunSettings())


def test_a_prompt_a_file(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in {"b_2": "  two\nlines \r\n", "a": "ein Würfel\n", "empty": "\n"}.items():
        (folder / f"{name}.txt").write_bytes(content.encode())
    (folder / "utf16.txt").write_text("mit Marke", "utf-16")
    (folder / "beside.csv").write_text("prompt\nx\n")
    found = find_inputs(str(folder), per_file=True)
    columns = check_table(found.files, RunSettings())
    tables = [table for file in found.files for table in read_rows(file, columns, [(0, 1)])]
    assert [(t.column("id")[0].as_py(), t.column("prompt")[0].as_py()) for t in tables] == [
        ("a", "ein Würfel"),
        ("b_2", "two\nlines"),
        ("empty", ""),
        ("utf16", "mit Marke"),
    ]
    said = sdbatch("plan", folder, tmp_path / "out", "--prompt-per-file", status=1).stdout
    assert "4 rows in 4 files" in said and "1  prompt is empty" in said and "carried id" in said
    assert "1 .csv file left out, such as beside.csv" in said
    with pytest.raises(InputError, match=r"no \.txt file in it"):
        find_inputs(str(folder / "*.csv"), per_file=True)
    refused = sdbatch("plan", "a red circle", tmp_path / "out", "--prompt-per-file", status=2).stderr
    assert "PROMPTS is a prompt itself" in refused


def test_what_is_left_out_and_how_text_is_read_is_said(tmp_path):
    FRAME.to_parquet(tmp_path / "p.parquet")
    (tmp_path / "notes.txt").write_text("a\n")
    options = ("--storage-options", '{"anon": true}')
    said = sdbatch("plan", tmp_path, tmp_path.parent / "out", *options).stdout
    assert f"warning: {tmp_path}: 1 .txt file left out, such as notes.txt" in said
    assert "warning: --storage-options: PROMPTS, OUT and the model are local" in said
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(3):
        FRAME.to_csv(folder / f"{number}.csv", index=False, sep=";")
    said = sdbatch("plan", folder, tmp_path / "out").stdout
    assert f"text    {folder / '0.csv'} is read with ';' between its columns, and 2 more like it" in said


def test_too_many_columns(tmp_path):
    names = [f"column_{i}" for i in range(20_000)]
    (tmp_path / "p.csv").write_text(",".join(["prompt", *names]) + "\na\n")
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "a", "{name}": 1}}\n' for name in names))
    write_table(tmp_path / "p.parquet", pa.table({name: [1] for name in names}))
    with pa.ipc.new_file(tmp_path / "p.arrow", pa.schema([(name, pa.int64()) for name in names])):
        pass
    for kind in ("csv", "jsonl", "parquet", "arrow"):
        with pytest.raises(UsageError, match=r"has 20,00\d columns, more than 16,384"):
            list_inputs(str(tmp_path / f"p.{kind}"))
