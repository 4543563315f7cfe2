"""What the columns of a table are for, and which tables are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from sdbatch.errors import InputError, UsageError
from sdbatch.prompts import Columns, check_table, list_inputs
from sdbatch.settings import RunSettings
from tests.tables import write_table


def checked(tmp_path: Path, *tables: dict[str, object], **options: object) -> Columns:
    for number, table in enumerate(tables):
        write_table(tmp_path / f"{number}.parquet", table)
    return check_table(list_inputs(str(tmp_path)), RunSettings.from_options(options))


def test_diffusiondb_goes_in_as_it_is(tmp_path: Path) -> None:
    types = {
        "image_name": pa.string(),
        "prompt": pa.string(),
        "part_id": pa.uint16(),
        "seed": pa.uint32(),
        "step": pa.uint16(),
        "cfg": pa.float32(),
        "sampler": pa.uint8(),
        "width": pa.uint16(),
        "height": pa.uint16(),
        "user_name": pa.string(),
        "timestamp": pa.timestamp("ns", "UTC"),
        "image_nsfw": pa.float32(),
        "prompt_nsfw": pa.float32(),
    }
    columns = checked(tmp_path, {name: pa.array([], kind) for name, kind in types.items()})
    assert columns.settings["steps"] == "step"
    assert columns.settings["guidance_scale"] == "cfg"
    assert columns.schema.names == [
        "image_name",
        "part_id",
        "user_name",
        "timestamp",
        "image_nsfw",
        "prompt_nsfw",
    ]
    assert columns.schema.field("timestamp").type == pa.timestamp("ns", "UTC")


def test_partiprompts_goes_in_as_it_is(tmp_path: Path) -> None:
    columns = checked(tmp_path, {name: ["x"] for name in ("Prompt", "Category", "Challenge", "Note")})
    assert columns.settings == {"prompt": "Prompt"}
    assert columns.schema.names == ["Category", "Challenge", "Note"]


def test_laion_goes_in_with_columns_named(tmp_path: Path) -> None:
    laion = {"url": ["u"], "caption": ["c"], "width": [640], "height": [480], "similarity": [0.3]}
    columns = checked(tmp_path, laion, column={"prompt": "caption", "width": "", "height": ""})
    assert columns.settings == {"prompt": "caption"}
    assert columns.schema.names == ["url", "input_width", "input_height", "similarity"]


def test_columns_pickle(tmp_path: Path) -> None:
    columns = checked(tmp_path, {"prompt": ["a"], "extra": [{"x": [1]}]})
    assert pickle.loads(pickle.dumps(columns)) == columns


def test_a_column_that_is_all_null_goes_with_any_type(tmp_path: Path) -> None:
    columns = checked(tmp_path, {"prompt": ["a"], "id": pa.nulls(1)}, {"prompt": ["a"], "id": ["x"]})
    assert columns.schema.field("id").type == pa.string()


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        ({"caption": ["a"]}, {}, ["no column 'prompt'", "'caption'", "--column prompt="]),
        ({"prompt": [1]}, {}, ["column 'prompt'", "int64", "text"]),
        ({"prompt": ["a"], "steps": ["20"]}, {}, ["column 'steps'", "string", "whole numbers"]),
        ({"prompt": ["a"], "cfg": ["7"]}, {}, ["column 'cfg' (guidance_scale)", "string", "numbers"]),
        ({"prompt": ["a"], "seed": [True]}, {}, ["column 'seed'", "bool", "whole numbers"]),
        ({"prompt": ["a"], "sampler": [1.5]}, {}, ["column 'sampler'", "double", "text"]),
        ({"prompt": ["a"], "steps": [1], "step": [1]}, {}, ["'steps' and 'step'", "--column steps="]),
        ({"PROMPT": ["a"], "Prompt": ["a"]}, {}, ["'PROMPT' and 'Prompt'", "--column prompt="]),
        ({"prompt": ["a"], "key": ["x"]}, {}, ["column 'key'", "output's column 'key'", "--column key="]),
        ({"prompt": ["a"], "image": ["x"]}, {}, ["column 'image'", "output's column 'image'"]),
        (
            {"prompt": ["a"], "key": ["x"], "input_key": ["y"]},
            {"column": {"key": ""}},
            ["column 'key'", "'input_key'"],
        ),
    ],
)
def test_a_table_that_cannot_be_run_is_refused(
    tmp_path: Path, table: dict[str, object], options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        checked(tmp_path, table, **options)
    for word in [str(tmp_path / "0.parquet"), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"prompt": ["a"]}, ["has no column 'id'"]),
        ({"prompt": ["a"], "id": ["x"]}, ["column 'id'", "string", "int64"]),
        ({"prompt": ["a"], "id": [1], "more": [1]}, ["has a column 'more'"]),
    ],
)
def test_files_that_differ_are_refused(tmp_path: Path, second: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        checked(tmp_path, {"prompt": ["a"], "id": [1]}, second)
    for word in [f"{tmp_path / '1.parquet'}:", str(tmp_path / "0.parquet"), *words]:
        assert word in str(error.value)


def test_duplicate_columns_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], ["prompt", "x", "x"])
    with pytest.raises(InputError, match="more than one column 'x'"):
        checked(tmp_path, table)


@pytest.mark.parametrize("column", [{"promt": "x"}, {"prompt": "promt"}, {"model": "prompt"}, {"nonsense": ""}])
def test_a_column_option_that_names_nothing_is_refused(tmp_path: Path, column: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--column"):
        checked(tmp_path, {"prompt": ["a"]}, column=column)
