"""Hive partitions: folders named `key=value` are columns of the files below them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import InputFile, Piece, check_table, list_inputs, parse, read_rows, read_table
from sdbatch.prompts.partitions import partition_folders, partitions_of
from sdbatch.settings import RunSettings
from tests.tables import write_table

NULL = "__HIVE_DEFAULT_PARTITION__"


def partitioned(root: Path, *folders: str, column: str = "prompt") -> str:
    for number, folder in enumerate(folders):
        write_table(root / folder / "part-0.parquet", {column: [f"{number}, 0", f"{number}, 1"]})
    return str(root)


def read(files: list[InputFile], **options: object) -> pa.Table:
    columns = check_table(files, RunSettings.from_options(options))
    spans = [[Piece(number, 0, file.rows) for number, file in enumerate(files)]]
    (table,) = read_table(files, columns, spans)
    return table


def settings_of(files: list[InputFile]) -> list[object]:
    settings = RunSettings()
    columns = check_table(files, settings)
    rows = []
    for number, file in enumerate(files):
        (table,) = read_rows(file, columns, [(0, file.rows)])
        rows += parse(table, columns, settings, [Piece(number, 0, file.rows)])
    assert [row.error for row in rows] == [None] * len(rows)
    return [row.requests[0] for row in rows]


def test_every_key_and_value_survives() -> None:
    random.seed(0)
    alphabet = "".join(map(chr, range(1, 256))) + "日本🎨\u202e\ufeff%2F=+ "
    for _ in range(2000):
        key, value = ("".join(random.choices(alphabet, k=random.randint(1, 12))) for _ in range(2))
        path = f"/in/{quote(key, safe='')}={quote(value, safe='')}/p.parquet"
        assert partitions_of(path) == {key: value}


@pytest.mark.parametrize(
    ("path", "below", "folders"),
    [
        ("/in/a=1/b=2/p.parquet", None, ["a=1", "b=2"]),
        ("/a=1/x/b=2/p.parquet", None, ["b=2"]),
        ("/a=1/in/p=1.parquet", None, []),
        ("/in/a=1/b=2/p.parquet", "/in/a=1", ["b=2"]),
        ("/in/a=1/p.parquet", "/in/a=1/", []),
        ("/a=1/p.parquet", "/", ["a=1"]),
        ("s3://bucket/a=1/p.parquet", "s3a://bucket", ["a=1"]),
        ("/in/=1/a=/p.parquet", None, ["a="]),
        ("https://host/in/p.parquet?sig=ab/cd=/x", None, []),
    ],
)
def test_the_unbroken_run_above_a_file_counts(path: str, below: str | None, folders: list[str]) -> None:
    assert partition_folders(path, below) == folders


@pytest.mark.parametrize(
    "folders",
    [
        ["k=1", "k=007", "k=-3", f"k={NULL}"],
        ["k=0x1F", "k=2147483647", "k=%31"],
        ["k=2147483648", "k=1"],
        ["k=+1", "k= 1"],
        ["k=7.5", "k="],
        ["k=a=b", "k=100%", "k=%zz", "k=y+z", "k=é%C3%A9"],
        ["a%20b=%2Fx%3D", "a%20b=%5F_HIVE_DEFAULT_PARTITION__"],
        ["style=flat/steps=1", "style=photo/steps=2"],
        ["a=1/b=2", "b=3/a=x"],
        ["_a=1", "a=2"],
    ],
)
def test_a_folder_is_read_as_pyarrow_reads_it(tmp_path: Path, folders: list[str]) -> None:
    url = partitioned(tmp_path, *folders)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "figures").mkdir()
    expected = ds.dataset(url, partitioning="hive", format="parquet").to_table().sort_by("prompt")
    files = list_inputs(url)
    assert [file.path for file in files] == sorted(file.path for file in files)
    table = read(files).sort_by("prompt").select(expected.column_names)  # settings come first
    assert table.schema.equals(expected.schema)
    assert table.to_pylist() == expected.to_pylist()


def test_one_file_and_a_glob_have_the_columns_too(tmp_path: Path) -> None:
    url = partitioned(tmp_path, "style=flat/steps=1", "style=photo/steps=2")
    whole = list_inputs(url)
    assert [file.partitions for file in whole] == [{"style": "flat", "steps": 1}, {"style": "photo", "steps": 2}]
    assert whole[0].schema is whole[1].schema
    (tmp_path / "_SUCCESS").touch()
    for glob in ("*/*/*.parquet", "**/*.parquet", "style=*/steps=*/part-0.parquet", "style=*", "*", "**/*=*"):
        assert list_inputs(f"{url}/{glob}") == whole, glob
    assert list_inputs(whole[0].path) == whole[:1]
    # The folder's own name is not part of its table.
    (file,) = list_inputs(f"{url}/style=flat")
    assert file.partitions == {"steps": 1}
    (file,) = list_inputs(f"{url}/style=flat/steps=1")
    assert (file.partitions, file.schema.names) == ({}, ["prompt"])


def test_a_linked_partition_is_one_and_a_loop_is_refused(tmp_path: Path) -> None:
    partitioned(tmp_path / "real", "k=1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "k=2").symlink_to(tmp_path / "real" / "k=1")
    (file,) = list_inputs(f"{tmp_path}/in")
    assert file.partitions == {"k": 2}
    (tmp_path / "loop" / "a=1").mkdir(parents=True)
    (tmp_path / "loop" / "a=1" / "a=2").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="two partitions with the key 'a'"):
        list_inputs(f"{tmp_path}/loop")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "txt"])
def test_text_tables_have_partitions_too(tmp_path: Path, suffix: str) -> None:
    for steps in (5, 7):
        lines = [f"red {steps}", "blue"]
        if suffix == "jsonl":
            lines = [json.dumps({"prompt": line}) for line in lines]
        elif suffix != "txt":
            lines = ["prompt", *lines]
        folder = tmp_path / f"steps={steps}" / "guidance_scale=7.5" / f"seed={2**40}" / "sampler=ddim" / "tag=a%20b"
        folder.mkdir(parents=True)
        (folder / f"p.{suffix}").write_text("\n".join(lines) + "\n")
    files = list_inputs(str(tmp_path))
    requests = settings_of(files)
    assert [request.prompt for request in requests] == ["red 5", "blue", "red 7", "blue"]
    assert [request.steps for request in requests] == [5, 5, 7, 7]
    assert {(r.guidance_scale, r.seed, r.sampler) for r in requests} == {(7.5, 2**40, "ddim")}
    assert check_table(files, RunSettings()).carried == {"tag": "tag"}


def test_settings_of_parquet_may_be_partitions(tmp_path: Path) -> None:
    url = partitioned(tmp_path, f"steps=3/cfg=7.5/seed={2**63}", f"steps=4/cfg={NULL}/seed={NULL}")
    requests = settings_of(list_inputs(url))
    assert [request.steps for request in requests] == [3, 3, 4, 4]
    assert [request.guidance_scale for request in requests[:2]] == [7.5, 7.5]
    assert requests[2].guidance_scale == RunSettings().value("guidance_scale")
    assert [request.seed for request in requests[:2]] == [2**63] * 2


def test_prompts_may_be_partitions_and_nothing_of_the_file_is_needed(tmp_path: Path) -> None:
    files = list_inputs(partitioned(tmp_path, "prompt=a%20red%20circle", column="note"))
    columns = check_table(files, RunSettings()).without_carried()
    (table,) = read_rows(files[0], columns, [(0, 2)])
    assert table.to_pylist() == [{"prompt": "a red circle"}] * 2
    assert [r.prompt for r in settings_of(files)] == ["a red circle"] * 2
    nothing = list_inputs(write_table(tmp_path / "k=1" / "p.parquet", {"prompt": ["x", "y", "z"]}))
    columns = check_table(nothing, RunSettings())
    assert [t.num_rows for t in read_rows(nothing[0], columns, [(0, 1), (2, 1)])] == [1, 1]


def test_a_key_without_values_sets_nothing(tmp_path: Path) -> None:
    files = list_inputs(partitioned(tmp_path, f"steps={NULL}/k={NULL}"))
    assert settings_of(files)[0].steps == RunSettings().value("steps")
    assert read(files)["k"].to_pylist() == [None, None]


def test_an_output_from_before_is_read_without_partitions(tmp_path: Path) -> None:
    files = list_inputs(f"{partitioned(tmp_path, 'steps=3/k=1')}/*/*/*.parquet")
    columns = check_table(files, RunSettings(), before=True)
    assert (columns.settings, columns.carried) == ({"prompt": "prompt"}, {})
    (table,) = read_rows(files[0], columns, [(0, 2)])
    assert table.column_names == ["prompt"]


@pytest.mark.parametrize(
    ("folders", "column", "named"),
    [
        (["a=1", "b=1"], "prompt", ["a=1/part-0.parquet", "b=1/part-0.parquet", "'a'", "'b'"]),
        (["a=1", "a=1/b=2"], "prompt", ["a=1/part-0.parquet", "is beside the partition", "a=1/b=2"]),
        (["", "a=1"], "prompt", ["part-0.parquet: is beside the partition", "a=1"]),
        (["a=1/b=1", "a=2"], "prompt", ["a=1/b=1/part-0.parquet", "a=2/part-0.parquet"]),
        (["prompt=1"], "prompt", ["prompt=1/part-0.parquet: has a column 'prompt'", "partition with that key"]),
        (["k=%FF"], "prompt", ["k=%FF", "'%FF' is not valid UTF-8"]),
        (["a=1/%61=2"], "prompt", ["a=1/%61=2", "two partitions with the key 'a'"]),
        (["prompt=2024"], "note", ["prompt=2024/part-0.parquet", "'prompt' holds int32; expected text"]),
        (["a=1/x"], "prompt", ["has no files in it; select those in subfolders"]),
    ],
)
def test_what_makes_no_table_is_refused(tmp_path: Path, folders: list[str], column: str, named: list[str]) -> None:
    with pytest.raises(InputError) as error:
        check_table(list_inputs(partitioned(tmp_path, *folders, column=column)), RunSettings())
    assert all(part in str(error.value) for part in named), str(error.value)
    assert "\n" not in str(error.value)


def test_a_glob_whose_files_differ_in_keys_is_refused(tmp_path: Path) -> None:
    partitioned(tmp_path, "", "k=1")
    with pytest.raises(InputError, match=r"part-0\.parquet.*no partition"):
        list_inputs(f"{tmp_path}/**/*.parquet")
    assert len(list_inputs(f"{tmp_path}/*.parquet")) == 1


def test_schemas_of_pandas_are_kept(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"]}).replace_schema_metadata({"pandas": "{}"})
    files = list_inputs(write_table(tmp_path / "k=x" / "p.parquet", table))
    assert files[0].own_schema.equals(pq.read_schema(files[0].path), check_metadata=True)
