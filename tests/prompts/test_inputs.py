"""Finding the files of a prompt table, and refusing what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import list_inputs
from tests.tables import write_table


def test_a_file_is_described_by_its_footer(tmp_path: Path) -> None:
    path = write_table(tmp_path / "p.parquet", {"prompt": ["a"] * 10}, row_group_size=4)
    (file,) = list_inputs(path)
    assert (file.path, file.size, file.rows, file.row_groups) == (
        path,
        Path(path).stat().st_size,
        10,
        (4, 4, 2),
    )
    assert file.stamp == str(Path(path).stat().st_mtime_ns)


def test_a_folder_and_a_glob_give_their_files_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "c.parquet"):
        write_table(tmp_path / name, {"prompt": [name]})
    for name in ("_metadata.parquet", ".hidden.parquet", "_SUCCESS", "readme.md"):
        (tmp_path / name).write_text("not a table")
    write_table(tmp_path / "deeper" / "d.parquet", {"prompt": ["d"]})
    names = [Path(file.path).name for file in list_inputs(str(tmp_path))]
    assert names == ["a.parquet", "b.parquet", "c.parquet"]
    assert [Path(file.path).name for file in list_inputs(f"{tmp_path}/[ac]*.parquet")] == [
        "a.parquet",
        "c.parquet",
    ]
    assert [Path(file.path).name for file in list_inputs(f"{tmp_path}/**/d.parquet")] == ["d.parquet"]


def test_a_name_with_glob_characters_is_itself_first(tmp_path: Path) -> None:
    path = write_table(tmp_path / "part[1]*.parquet", {"prompt": ["a"]})
    assert [file.path for file in list_inputs(path)] == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"prompt\na red circle\n", "is not a Parquet file"),
        (b"PAR1" + bytes(100), "is truncated or damaged"),
    ],
)
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list_inputs(str(path))
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_named_among_others(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", {"prompt": ["a"] * 1000})
    whole = Path(write_table(tmp_path / "b.parquet", {"prompt": ["b"] * 1000}))
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.parquet: is truncated or damaged"):
        list_inputs(str(tmp_path))


@pytest.mark.parametrize("name", ["missing.parquet", "missing/*.parquet", "empty"])
def test_nothing_found_names_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}/{name.partition('*')[0]}"):
        list_inputs(f"{tmp_path}/{name}")
