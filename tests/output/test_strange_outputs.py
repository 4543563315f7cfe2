"""Outputs that sdbatch did not write: one line about the shard, and nothing outside of OUT."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdbatch.cli import main
from sdbatch.errors import SdbatchError
from sdbatch.output.dataset import open_dataset
from sdbatch.output.encoding import decoded, read_parameters
from sdbatch.output.markers import ShardStats
from sdbatch.output.status import status
from sdbatch.output.verify import verify
from tests.output.writing import write_output
from tests.tables import write_table

LAYOUTS = ("files", "parquet", "webdataset")


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., Path]:
    def make(layout: str = "files") -> Path:
        prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b", "", "d"]})
        write_output(str(tmp_path / "out"), prompts, shard_rows=2, layout=layout)
        return tmp_path / "out"

    return make


def replace_column(out: Path, name: str, values: Any) -> None:
    table = pq.read_table(out / "00000.parquet")
    place = table.column_names.index(name)
    changed = table.remove_column(place)
    pq.write_table(changed if values is None else changed.add_column(place, name, values), out / "00000.parquet")


def commands(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each reader of a damaged first shard says so in one line; `verify` looks at the second one, too."""
    report = verify(str(out))
    assert list(report.bad) == [0] and report.shards == 2, report.bad
    assert main(["verify", str(out)]) == 1
    for command in (["gallery", str(out)], ["sheet", str(out), str(out.parent / "sheet.png")]):
        capsys.readouterr()
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SdbatchError):
        list(open_dataset(str(out)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "key", ["../../../../escaped", "/escaped", "00000", "000010000", "", "0000000xx", None, "00000000\n"]
)
def test_a_key_that_is_none_becomes_no_path(output, capsys, layout, key):
    out = output(layout)
    before = {path for path in out.parent.rglob("*") if "gallery" not in path.parts}
    replace_column(out, "key", pa.array([key, "000000001"], pa.string()))
    commands(out, capsys)
    assert {path for path in out.parent.rglob("*") if "gallery" not in path.parts} == before


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "00001/000010000.png", "00000/../run.json", None, ""]
)
def test_a_file_name_is_the_shards_own(output, capsys, name):
    out = output()
    replace_column(out, "file_name", pa.array([name, "00000/000000001.png"], pa.string()))
    for command in (["gallery", str(out)], ["sheet", str(out), str(out.parent / "sheet.png")]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["", "another"])
def test_a_shard_of_other_columns_is_a_finding(output, capsys, name):
    out = output()
    table = pq.read_table(out / "00000.parquet")
    pq.write_table(table.add_column(0, name, pa.array([1, 2])), out / "00000.parquet")
    commands(out, capsys)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("column", "values"),
    [
        *[(name, None) for name in ("key", "prompt", "status", "error", "seed", "sampler", "width", "model", "sha256")],
        ("status", pa.array([None, "ok"])),
        ("status", pa.array(["OK", "ok"])),
        ("status", pa.array([1, 2])),
        ("prompt", pa.array([None, "b"])),
        ("prompt", pa.array([["a"], ["b"]])),
        ("guidance_scale", pa.array(["7", "8"])),
        ("guidance_scale", pa.array([None, 7.5])),
        ("height", pa.array([None, 32])),
        ("seed", pa.array([{"a": 1}, None])),
        ("prompt_truncated", pa.array(["x", "y"])),
    ],
)
def test_metadata_of_other_columns_is_a_finding_of_its_shard(output, capsys, layout, column, values):
    out = output(layout)
    replace_column(out, column, values)
    commands(out, capsys)


@pytest.mark.parametrize(
    "change",
    [{"rows": "x"}, {"ok": -1}, {"ok": [1]}, {"images": True}, {"failed": 1e300}, {"reasons": [1]},
     {"reasons": {"a": "b"}}, {"seconds": "x"}, {"seconds": -1}, {"notes": 5}, {"ok": None}, {"images": 10**400},
     {"ok": 7}],
)  # fmt: skip
def test_a_marker_of_other_types_is_named_and_passed_over(output, capsys, change):
    out = output()
    marker = json.loads((out / "00000_stats.json").read_text())
    (out / "00000_stats.json").write_text(json.dumps(marker | change))
    state = status(str(out))
    assert (state.done, len(state.damaged)) == (1, 1) and next(iter(change)) in state.damaged[0]
    assert main(["status", str(out)]) == 1
    assert "00000_stats.json" in capsys.readouterr().out
    assert list(verify(str(out)).bad) == [0]


@pytest.mark.parametrize("name", ["run.json", "00000_stats.json"])
def test_a_file_of_a_manifest_has_a_bounded_size(output, capsys, name):
    """Within the limit for other files, but it would take gigabytes as JSON."""
    out = output()
    os.truncate(out / name, 1 << 30)
    for command in (["status", str(out)], ["verify", str(out)], ["plan", str(out), str(out.parent / "new")]):
        assert main(command) == (1 if name != "run.json" and command[0] != "plan" else 2)
        said = "".join(capsys.readouterr())
        assert f"{out / name}: it has 1,073,741,824 bytes" in said or f"{name} is damaged (it is too large)" in said


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
@pytest.mark.parametrize("command", ["gallery {}", "sheet {} {}.png", "score {} --scorer phash", "export {} {}-chosen"])
def test_a_shard_without_an_image_is_one_line(output, capsys, layout, command):
    out = output(layout)
    if layout == "webdataset":
        with tarfile.open(out / "00000.tar") as tar:
            end = tar.getmembers()[3].offset  # of the first sample's three files
        os.truncate(out / "00000.tar", end)
    else:
        images = pq.read_table(out / "00000.parquet").column("image")
        replace_column(out, "image", pa.array([images[0].as_py(), None], images.type))
    assert main([word.format(out) for word in command.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out}/00000" in line and "fewer images than its metadata" in line


def test_a_marker_of_no_shard_of_the_run_is_passed_over(output, capsys):
    out = output()
    (out / f"{'9' * 30}_stats.json").write_bytes((out / "00000_stats.json").read_bytes())
    assert main(["plan", str(out), str(out.parent / "new")]) == 0
    assert main(["status", str(out)]) == 1  # by its failed row
    assert "2 of 2 shards done" in capsys.readouterr().out


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["shard", "rows", "images", "ok", "failed", "reasons", "seconds", "notes", "x"]), inner
            )
        ),
    )
    | st.binary()
)
@settings(max_examples=200, deadline=None)
def test_no_marker_ends_its_reader(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        ShardStats.from_json(data, "marker")
    except SdbatchError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("name", ["00000.parquet", "00000.tar"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(output, capsys, name):
    out = output("webdataset" if name.endswith("tar") else "files")
    (out / name).unlink()
    os.mkfifo(out / name)
    commands(out, capsys)


def test_a_pipe_in_the_place_of_a_picture_is_not_waited_for(output, capsys):
    out = output()
    (out / "00000/000000000.png").unlink()
    os.mkfifo(out / "00000/000000000.png")
    assert list(verify(str(out)).bad) == [0]
    assert main(["sheet", str(out), str(out.parent / "sheet.png")]) == 2
    assert "it is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["imagefolder", "webdataset", "geneval", "dpg-bench"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "folder", "larger than a disk"])
def test_only_files_are_exported(output, capsys, form, kind):
    out = output()
    path = out / "00000/000000000.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a pipe":
        os.mkfifo(out.parent / "pipe")
        path.symlink_to(out.parent / "pipe")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 200 << 30)
    assert main(["export", str(out), str(out.parent / "chosen"), "--for", form, *id_of(form)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {path}" in line


def id_of(form: str) -> list[str]:
    return ["--id", "prompt"] if form == "dpg-bench" else []


@pytest.mark.parametrize("form", ["geneval", "dpg-bench"])
def test_an_export_names_the_image_that_does_not_decode(tmp_path, capsys, form):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["a", "b"]}), tmp_path / "out"
    write_output(str(out), prompts, image_format="jpeg", images_per_prompt=4)
    (out / "00000/000000002.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["export", str(out), str(tmp_path / "chosen"), "--for", form, *id_of(form)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out}/00000: image 000000002 does not decode" in line


def test_a_circle_of_links_in_the_place_of_a_folder_is_its_shards_finding(output, capsys):
    out = output()
    for path in (out / "00000").iterdir():
        path.unlink()
    (out / "00000").rmdir()
    (out / "00000").symlink_to("00000")
    assert list(verify(str(out)).bad) == [0]
    assert main(["sheet", str(out), str(out.parent / "sheet.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_image_of_no_row_in_the_manifest_is_one_line(output, capsys):
    out = output()
    record = json.loads((out / "run.json").read_text())
    for rows in (0, 1):
        record["inputs"][0]["rows"] = rows
        (out / "run.json").write_text(json.dumps(record))
        assert main(["export", str(out), str(out.parent / "chosen")]) == 2
        assert "of no row of the inputs in run.json" in capsys.readouterr().err


def test_a_manifest_in_another_form_is_of_the_same_run(output):
    """As a JSON formatter or an editor leaves it, with sorted keys and a mark of the encoding."""
    out = output()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record, sort_keys=True, indent=8), encoding="utf-8-sig")
    assert len(list(open_dataset(str(out)))) == 4
    assert len(open_dataset(str(out)).to_pandas()) == 4


def test_a_damaged_manifest_is_no_empty_dataset(output):
    out = output()
    for content in ("{", json.dumps({"version": 2, "id": "0" * 32})):
        (out / "run.json").write_text(content)
        with pytest.raises(SdbatchError, match=r"run\.json"):
            open_dataset(str(out))


@pytest.mark.parametrize("arguments", [(5,), (None,), (b"out",), ("out", 5), ("out", "key")])
def test_arguments_of_other_types_are_named(arguments):
    with pytest.raises(SdbatchError, match="expected"):
        open_dataset(*arguments)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), "7"])
def test_a_setting_that_is_no_number_is_named(output, capsys, value):
    out = output()
    record = json.loads((out / "run.json").read_text())
    record["settings"]["guidance_scale"] = value
    (out / "run.json").write_text(json.dumps(record))
    for command in ("status", "verify", "gallery"):
        assert main([command, str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "run.json: settings.guidance_scale" in line


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"version":' * 200_000, b"", b"\xff"])
def test_a_manifest_that_is_no_json_is_one_line_in_every_reader(output, capsys, content):
    out = output()
    (out / "run.json").write_bytes(content)
    new = str(out.parent / "new")
    for command in (["status", str(out)], ["verify", str(out)], ["gallery", str(out)], ["plan", str(out), new]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", bytes(10_240), b"x" * 600, None])
def test_a_tar_of_something_else_is_a_finding(output, capsys, content):
    out = output("webdataset")
    if content is None:  # two kilobytes that say they are 200 GB
        member = tarfile.TarInfo("000000000.png")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(200 << 30), "GNU.sparse.map": "0,1"}
        member.size = 1
        with tarfile.open(out / "00000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(member, io.BytesIO(b"x"))
    else:
        (out / "00000.tar").write_bytes(content)
    commands(out, capsys)


def test_comments_that_are_no_bytes_are_no_parameters():
    for tag, value in ((0x9286, 5), (0x9286, "text"), (0x9286, b"UNICODE\0\xd8")):
        image, file = Image.new("RGB", (8, 8)), io.BytesIO()
        exif = Image.Exif()
        exif.get_ifd(0x8769)[tag] = value
        image.save(file, "JPEG", exif=exif)
        read_parameters(Image.open(file))
    chunks, file = PngInfo(), io.BytesIO()
    chunks.add_text("parameters", "a" * (70 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    with pytest.raises(ValueError, match="does not decode"):
        decoded(file.getvalue(), (8, 8))


@given(
    column=st.sampled_from(["key", "file_name", "status", "width", "guidance_scale", "prompt", "error"]),
    values=st.lists(st.none() | st.text(max_size=9) | st.integers(-9, 9), min_size=2, max_size=2),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_metadata_ends_verify(output, column, values):
    out = output()
    texts = [value if value is None else str(value) for value in values]
    replace_column(out, column, pa.array(values) if len({type(v) for v in values}) == 1 else pa.array(texts))
    assert verify(str(out)).shards == 2
