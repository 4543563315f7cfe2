"""Files of one table that spell a column's name differently."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdbatch.cli import main
from sdbatch.errors import InputError
from sdbatch.prompts import check_table, find_inputs, read_table
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.reading import mended_texts
from sdbatch.settings import RunSettings
from tests.tables import write_table


def read(folder):
    files = find_inputs(str(folder)).files
    columns = check_table(files, RunSettings())
    (table,) = read_table(files, columns, [[Piece(number, 0, file.rows) for number, file in enumerate(files)]])
    return columns, table.to_pydict()


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_columns_whose_names_differ_only_in_case_are_one(tmp_path, ending):
    text = {
        "csv": ("Prompt,Steps,Note\na cat,5,x\n", "prompt,steps,note\na dog,6,y\n", "NOTE,PROMPT\nz,a cow\n"),
        "jsonl": (
            '{"Prompt": "a cat", "Steps": 5, "Note": "x"}',
            '{"prompt": "a dog", "steps": 6, "note": "y"}',
            '{"NOTE": "z", "PROMPT": "a cow"}',
        ),
    }
    if ending == "parquet":
        write_table(tmp_path / "1.parquet", {"Prompt": ["a cat"], "Steps": [5], "Note": ["x"]})
        write_table(tmp_path / "2.parquet", {"prompt": ["a dog"], "steps": [6.0], "note": ["y"]})
        write_table(tmp_path / "3.parquet", {"NOTE": ["z"], "PROMPT": ["a cow"]})
    else:
        for number, content in enumerate(text[ending]):
            (tmp_path / f"{number}.{ending}").write_text(content)
    columns, table = read(tmp_path)
    assert columns.settings == {"prompt": "Prompt", "steps": "Steps"} and list(columns.carried) == ["Note"]
    assert table["Prompt"] == ["a cat", "a dog", "a cow"] and table["Note"] == ["x", "y", "z"]
    assert [value and int(value) for value in table["Steps"]] == [5, 6, None]
    assert "'note' (" in columns.differences and ") is read as 'Note'" in columns.differences


def test_a_setting_is_not_carried_because_of_its_spelling(tmp_path):
    (tmp_path / "1.csv").write_text("prompt,CFG scale\na cat,3\n")
    (tmp_path / "2.csv").write_text("prompt,cfg_scale\na dog,4\n")
    columns, table = read(tmp_path)
    assert columns.settings["guidance_scale"] == "CFG scale" and not columns.carried
    assert table["CFG scale"] == ["3", "4"]


def test_repaired_texts_of_a_renamed_column_are_counted(tmp_path):
    write_table(tmp_path / "1.parquet", {"prompt": ["a"], "Note": ["x"]})
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    write_table(tmp_path / "2.parquet", {"prompt": ["a"], "note": broken})
    files = find_inputs(str(tmp_path)).files
    (table,) = read_table(files, check_table(files, RunSettings()), [[Piece(1, 0, 1)]])
    assert table["Note"].to_pylist() == ["\ufffd"] and mended_texts(table) == 1


def test_two_such_columns_of_one_file_stay_two(tmp_path):
    (tmp_path / "1.csv").write_text("prompt,note\na cat,x\n")
    (tmp_path / "2.csv").write_text("prompt,Note,note\na dog,y,z\n")
    columns, table = read(tmp_path)
    assert list(columns.carried) == ["note", "Note"]
    assert (table["note"], table["Note"]) == (["x", "z"], [None, "y"])


def test_a_column_that_a_file_has_twice_is_refused_also_beside_other_files(tmp_path):
    write_table(tmp_path / "1.parquet", {"prompt": ["b"], "y": [1]})
    pq.write_table(pa.table([["a"], [1], [2]], names=["prompt", "x", "x"]), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: has more than one column 'x'"):
        read(tmp_path)


def test_types_that_do_not_go_together_are_named(tmp_path):
    write_table(tmp_path / "1.parquet", {"prompt": ["a"], "Steps": [[1]]})
    write_table(tmp_path / "2.parquet", {"prompt": ["a"], "steps": [1]})
    with pytest.raises(InputError, match=r"2\.parquet: column 'Steps' holds int64; in .*1\.parquet it holds list<"):
        read(tmp_path)
    write_table(tmp_path / "1.parquet", {"prompt": ["a"], "Steps": [1]})
    write_table(tmp_path / "2.parquet", {"prompt": ["a"], "steps": [True]})
    write_table(tmp_path / "3.parquet", {"prompt": ["a"], "STEPS": ["x"], "note": ["x"]})
    assert read(tmp_path)[1]["Steps"] == ["1", "true", "x"]


def test_the_spelling_that_an_output_has_recorded_is_kept(tmp_path, capsys):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "2.csv").write_text("Prompt,Steps\na cat,1\n")
    files = find_inputs(str(tmp_path / "t")).files
    mapping = check_table(files, RunSettings()).settings
    (tmp_path / "t" / "1.csv").write_text("prompt,steps\na dog,2\n")
    files = find_inputs(str(tmp_path / "t")).files
    assert check_table(files, RunSettings(), mapping=mapping).settings == {"prompt": "Prompt", "steps": "Steps"}
    assert main(["plan", str(tmp_path / "t"), str(tmp_path / "out")]) == 0
    assert "columns prompt, steps\n" in capsys.readouterr().out
