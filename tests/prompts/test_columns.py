"""What the columns of a table are for, and which tables are refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import ParquetWriter

from sdbatch.diffusion.request import FIRST_FIELDS, ROW_FIELDS
from sdbatch.errors import InputError, UsageError
from sdbatch.prompts import SOURCES, Columns, check_table, list_inputs, read_rows
from sdbatch.prompts.names import candidates
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
        ({"prompt": ["a"], "steps": [[20]]}, {}, ["column 'steps'", "list<", "whole numbers"]),
        ({"prompt": ["a"], "cfg": [b"7"]}, {}, ["column 'cfg' (guidance_scale)", "binary", "numbers"]),
        ({"prompt": ["a"], "seed": [True]}, {}, ["column 'seed'", "bool", "whole numbers"]),
        ({"prompt": ["a"], "sampler": [1.5]}, {}, ["column 'sampler'", "double", "text"]),
        ({"prompt": ["a"], "steps": [1], "step": [1]}, {}, ["'steps' and 'step'", "--column steps="]),
        ({"PROMPT": ["a"], "Prompt": ["a"]}, {}, ["'PROMPT' and 'Prompt'", "--column prompt="]),
        ({"prompt": ["a"], "key": ["x"]}, {}, ["column 'key'", "output's column 'key'", "--column key="]),
        ({"prompt": ["a"], "image": ["x"]}, {"layout": "parquet"}, ["column 'image'", "output's column 'image'"]),
        (
            {"prompt": ["a"], "Steps": [1], "sampling steps": [1]},
            {},
            ["'Steps' and 'sampling steps'", "--column steps="],
        ),
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


def test_ten_thousand_columns_are_tried_type_by_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"prompt": ["a"], **{f"c{number}": [number] for number in range(10_000)}}
    write_table(tmp_path / "wide.parquet", table)
    files = list_inputs(str(tmp_path))
    tried = []
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", lambda *args: tried.append(args) or ParquetWriter(*args))
    assert len(check_table(files, RunSettings()).carried) == 10_000
    assert len(tried) == 1


TOOLS = {
    "AUTOMATIC1111": {
        "Prompt": "prompt",
        "Negative prompt": "negative_prompt",
        "Seed": "seed",
        "Sampler": "sampler",
        "Steps": "steps",
        "CFG scale": "guidance_scale",
        "Height": "height",
        "Width": "width",
    },
    "ComfyUI": {
        "prompt": "prompt",
        "noise_seed": "seed",
        "sampler_name": "sampler",
        "steps": "steps",
        "cfg": "guidance_scale",
    },
    "InvokeAI": {
        "positive_prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "cfg_scale": "guidance_scale",
        "scheduler": "sampler",
    },
    "diffusers": {
        "prompt": "prompt",
        "num_inference_steps": "steps",
        "guidance_scale": "guidance_scale",
    },
}
VALUES = {"steps": 1, "seed": 1, "guidance_scale": 1.0, "height": 8, "width": 8}


@pytest.mark.parametrize("tool", TOOLS)
def test_columns_go_by_the_names_of_other_tools(tmp_path: Path, tool: str) -> None:
    table = {column: [VALUES.get(setting, "x")] for column, setting in TOOLS[tool].items()}
    columns = checked(tmp_path, table)
    assert columns.settings == {setting: column for column, setting in TOOLS[tool].items()}
    assert not columns.carried and not columns.resembling


@given(
    name=st.sampled_from([(name, setting) for tool in TOOLS.values() for name, setting in tool.items()]),
    blanks=st.lists(st.sampled_from([" ", "_", "-", "  ", "\t"]), min_size=5, max_size=5),
    upper=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_case_and_blanks_make_no_difference(name: tuple[str, str], blanks: list[str], upper: list[bool]) -> None:
    text, setting = name
    words = re.split("[ _]", text)
    spelt = blanks[0] + "".join(word + blank for word, blank in zip(words, blanks[1:], strict=False)) + blanks[4]
    spelt = "".join(c.upper() if up else c.lower() for c, up in zip(spelt, upper * 3, strict=False))
    assert candidates(setting, ["id", spelt]) == [spelt]
    assert candidates(setting, [spelt, text]) in ([text], [spelt, text], [spelt])
    assert candidates(setting, [spelt, setting]) == [setting]


@pytest.mark.parametrize(
    ("column", "setting"),
    [
        ("guidance", "guidance_scale"),
        ("cfg scale 2", "guidance_scale"),
        ("Stepss", "steps"),
        ("negative", "negative_prompt"),
        ("promts", "prompt"),
        ("widht", "width"),
        ("seed2", "seed"),
        ("weight", None),
        ("prompt_nsfw", None),
        ("id", None),
        ("caption", None),
    ],
)
def test_a_carried_column_that_looks_like_a_setting(tmp_path: Path, column: str, setting: str | None) -> None:
    columns = checked(tmp_path, {"prompt": ["a"], column: ["x"]})
    assert columns.carried == {column: column}
    assert columns.resembling == ({column: setting} if setting else {})


def test_an_exact_name_beats_a_loose_one(tmp_path: Path) -> None:
    columns = checked(tmp_path, {"prompt": ["a"], "seed": [1], "Seed": [2], "scheduler": ["x"], "sampler": ["ddim"]})
    assert columns.settings == {"prompt": "prompt", "seed": "seed", "sampler": "sampler"}
    assert columns.resembling == {"Seed": "seed", "scheduler": "sampler"}


def test_a_setting_that_no_column_holds_is_not_warned_of(tmp_path: Path) -> None:
    columns = checked(tmp_path, {"prompt": ["a"], "WIDTH": [1]}, column={"width": ""})
    assert columns.carried == {"WIDTH": "WIDTH"} and not columns.resembling


def test_names_of_the_output_are_free_in_layouts_without_them(tmp_path: Path) -> None:
    table = {"prompt": ["a"], "image": ["x"], "file_name": ["y"]}
    assert checked(tmp_path, table, layout="webdataset").schema.names == ["image", "file_name"]


def test_an_earlier_outputs_table_keeps_its_meaning(tmp_path: Path) -> None:
    write_table(tmp_path / "p.parquet", {"Prompt": ["a"], "Steps": [3], "seed": [1]})
    files = list_inputs(str(tmp_path))
    before = check_table(files, RunSettings(), before=True)
    assert before.settings == {"prompt": "Prompt", "seed": "seed"} and before.seed_type == pa.int64()
    now = check_table(files, RunSettings())
    assert now.settings == {"prompt": "Prompt", "seed": "seed", "steps": "Steps"}
    assert check_table(files, RunSettings(), mapping=before.settings).settings == before.settings
    with pytest.raises(InputError, match="no column 'cfg', which OUT uses as guidance_scale"):
        check_table(files, RunSettings(), mapping={"prompt": "Prompt", "guidance_scale": "cfg"})


def test_columns_that_an_earlier_output_carries_are_carried_on(tmp_path: Path) -> None:
    write_table(tmp_path / "p.parquet", {"prompt": ["a"], "guidance_stop": [["x"]], "guidance start": [1]})
    files = list_inputs(str(tmp_path))
    later = [(field, "too late") for field in ROW_FIELDS if field not in FIRST_FIELDS]
    columns = check_table(files, RunSettings(), mapping={"prompt": "prompt"}, fields=FIRST_FIELDS, unused=later)
    assert columns.schema.names == ["guidance_stop", "guidance start"] and columns.fields == FIRST_FIELDS
    assert columns.unused == {"guidance_stop": "too late", "guidance start": "too late"} and not columns.resembling
    with pytest.raises(InputError, match="column 'guidance_stop' holds list"):
        check_table(files, RunSettings())


IMG2DATASET = {"caption": ["a", "b"], "key": ["1", "2"], "status": ["success"] * 2, "error_message": [None, None],
               "width": [512, 300], "height": [512, 300], "sha256": ["x", "y"], "url": ["u", "v"]}  # fmt: skip


def test_all_clashes_are_told_at_once_and_one_option_ends_them(tmp_path: Path) -> None:
    files = list_inputs(write_table(tmp_path / "laion.parquet", IMG2DATASET))
    column = {"prompt": "caption", "width": "", "height": ""}
    with pytest.raises(InputError, match=r"columns 'key', 'status', 'sha256' have names .* --rename-input"):
        check_table(files, RunSettings(column=column))
    columns = check_table(files, RunSettings(column=column, rename_input=True))
    assert columns.schema.names == [
        "input_key", "input_status", "error_message", "input_width", "input_height", "input_sha256", "url",
    ]  # fmt: skip


def test_the_tables_own_source_columns_go_before_ours(tmp_path: Path) -> None:
    files = list_inputs(write_table(tmp_path / "p.parquet", {"prompt": ["a"], "source_file": ["mine"]}))
    columns = check_table(files, RunSettings(), sources=tuple(SOURCES))
    assert columns.schema.names == ["source_file", "source_row"] and columns.sources == ("source_row",)
    (table,) = read_rows(files[0], columns, [(0, 1)])
    assert table.to_pylist() == [{"prompt": "a", "source_file": "mine", "source_row": 0}]
