"""`status` and `verify` on whole, incomplete, and damaged outputs."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdbatch.errors import UsageError
from sdbatch.output.status import status
from sdbatch.output.verify import verify
from sdbatch.settings import LAYOUTS
from tests.output.writing import write_output
from tests.tables import write_table

TABLE = {
    "id": list("abcdefgh"),
    "prompt": ["a", "b", "", "d", "e", "f", "g", "h"],
    "steps": [1, 2, 3, 4, 0, 6, 7, 8],
}


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., Path]:
    def make(**options: object) -> Path:
        prompts = write_table(tmp_path / "p.parquet", TABLE)
        write_output(str(tmp_path / "out"), prompts, shard_rows=3, **options)
        return tmp_path / "out"

    return make


def test_status_of_a_whole_output(output: Callable[..., Path]) -> None:
    state = status(str(output(images_per_prompt=2)))
    assert (state.shards, state.done, state.missing, state.complete) == (3, 3, 0, True)
    assert (state.images, state.ok, state.failed) == (16, 12, 4)
    assert state.reasons == {"prompt is empty": 2, "steps is 0; must be at least 1": 2}


def test_status_of_an_incomplete_output(output: Callable[..., Path]) -> None:
    out = output()
    (out / "00001_stats.json").unlink()
    (out / "00002_stats.json").write_bytes(b"")
    state = status(str(out))
    assert (state.done, state.missing, state.ok, state.failed) == (1, 2, 2, 1)


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    for ask in (status, verify):
        with pytest.raises(UsageError, match=r"has no run\.json"):
            ask(str(tmp_path))
    damaged = {"version": 1, "settings": {}, "model": {}, "engine": {}, "inputs": [{}], "shard_rows": 4}
    for content, key in (('{"settings": 1}', "version"), (json.dumps(damaged), r"inputs\[0\]"), ("{", "JSON")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(UsageError, match=rf"run\.json: .*{key}"):
            status(str(tmp_path))


def test_a_damaged_marker_is_named(output: Callable[..., Path]) -> None:
    out = output()
    (out / "00001_stats.json").write_text('{"shard": 1')
    state = status(str(out))
    assert (state.done, state.missing, state.complete) == (2, 0, False)
    assert "00001_stats.json is damaged" in state.damaged[0]
    shutil.copy(out / "00000_stats.json", out / "00001_stats.json")
    assert "it belongs to shard 0" in status(str(out)).damaged[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_good_output_is_good(output: Callable[..., Path], layout: str, image_format: str) -> None:
    report = verify(str(output(layout=layout, image_format=image_format)))
    assert (report.ok, report.shards, report.images, report.unfinished) == (True, 3, 8, 0)
    assert report.bad == {}


def test_an_unfinished_output_is_not_bad(output: Callable[..., Path]) -> None:
    out = output()
    (out / "00001_stats.json").unlink()
    report = verify(str(out))
    assert (report.ok, report.shards, report.unfinished) == (True, 2, 1)


def flip_a_byte(out: Path) -> None:
    path = out / "00001" / "000010002.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_an_image(out: Path) -> None:
    (out / "00001" / "000010000.png").unlink()


def remove_the_folder(out: Path) -> None:
    shutil.rmtree(out / "00001")


def add_an_image(out: Path) -> None:
    shutil.copy(out / "00001" / "000010000.png", out / "00001" / "000010001.png")


def swap_images(out: Path) -> None:
    one, two = out / "00001" / "000010000.png", out / "00001" / "000010002.png"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def cut_the_metadata(out: Path) -> None:
    path = out / "00001.parquet"
    path.write_bytes(path.read_bytes()[:-50])


def rewrite(path: Path, column: str, change: Callable[[list], list]) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(column)
    values = pa.array(change(table.column(column).to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), values), path)


def change_a_prompt(out: Path) -> None:
    rewrite(out / "00001.parquet", "prompt", lambda prompts: ["changed", *prompts[1:]])


def lose_a_row(out: Path) -> None:
    pq.write_table(pq.read_table(out / "00001.parquet").slice(1), out / "00001.parquet")


def change_the_caption(out: Path) -> None:
    rewrite(out / "00001" / "metadata.parquet", "text", lambda texts: ["changed", *texts[1:]])


def lie_in_the_marker(out: Path) -> None:
    marker = json.loads((out / "00001_stats.json").read_text())
    (out / "00001_stats.json").write_text(json.dumps(marker | {"ok": 3, "failed": 0}))


def truncate_the_marker(out: Path) -> None:
    (out / "00001_stats.json").write_text("{")


def reencode_without_parameters(out: Path) -> None:
    path = out / "00001" / "000010000.png"
    Image.open(path).save(path, pnginfo=None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(out / "00001.parquet", "sha256", lambda digests: [digest, *digests[1:]])
    rewrite(out / "00001" / "metadata.parquet", "sha256", lambda digests: [digest, *digests[1:]])


def enlarge_an_image(out: Path) -> None:
    """A PNG whose header claims 65,500 × 65,500 pixels, and metadata that vouches for its bytes."""
    path = out / "00001" / "000010000.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (65_500).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    rewrite(out / "00001.parquet", "sha256", lambda digests: [digest, *digests[1:]])
    rewrite(out / "00001" / "metadata.parquet", "sha256", lambda digests: [digest, *digests[1:]])


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (flip_a_byte, r"000010002\.png: its sha256 differs"),
        (remove_an_image, r"000010000\.png: is missing"),
        (remove_the_folder, r"metadata\.parquet: is missing"),
        (add_an_image, r"000010001\.png: does not belong there"),
        (swap_images, r"000010000\.png: its sha256 differs"),
        (cut_the_metadata, r"00001\.parquet: is truncated or damaged"),
        (change_a_prompt, r"000010000\.png: its embedded parameters differ"),
        (lose_a_row, r"the metadata does not have the 3 keys"),
        (change_the_caption, r"metadata\.parquet: differs from the metadata"),
        (lie_in_the_marker, r"the marker counts 3 images, 3 ok and 0 failed; the metadata 3, 2 and 1"),
        (truncate_the_marker, r"00001_stats\.json is damaged"),
        (reencode_without_parameters, r"000010000\.png: its embedded parameters differ"),
        (enlarge_an_image, r"000010000\.png: (is 65500x65500|does not decode)"),
    ],
)
def test_each_harm_is_found_in_its_shard_and_repaired_by_the_next_run(
    output: Callable[..., Path], harm: Callable[[Path], None], finding: str
) -> None:
    out = output()
    harm(out)
    report = verify(str(out))
    assert not report.ok
    assert list(report.bad) == [1]
    assert any(re.search(finding, problem) for problem in report.bad[1]), report.bad[1]
    assert (out / "00001_stats.json").exists()  # nothing is repaired unasked
    assert verify(str(out), repair=True).repaired == (1,)
    assert status(str(out)).missing == 1
    output()
    assert verify(str(out)).ok


def rewrite_tar(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda members: members[1:], r"000000000\.png: is missing"),
        (lambda members: [*members, members[0]], r"000000000\.png: does not belong there"),
        (lambda members: [*members, ("../../etc/passwd", b"")], r"\.\./\.\./etc/passwd: does not belong"),
        (lambda members: [members[0], (members[1][0], b"x"), *members[2:]], r"000000000\.txt: differs"),
        (lambda members: [*members[:2], (members[2][0], b"{}"), *members[3:]], r"000000000\.json: differs"),
    ],
)
def test_harm_to_a_tar_is_found(output: Callable[..., Path], change: Callable[[list], list], finding: str) -> None:
    out = output(layout="webdataset")
    rewrite_tar(out / "00000.tar", change)
    report = verify(str(out))
    assert list(report.bad) == [0]
    assert any(re.search(finding, problem) for problem in report.bad[0]), report.bad[0]


def test_a_tar_cut_short_is_found(output: Callable[..., Path]) -> None:
    out = output(layout="webdataset")
    path = out / "00000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    assert list(verify(str(out)).bad) == [0]


def test_harm_to_pictures_in_parquet_is_found(output: Callable[..., Path]) -> None:
    out = output(layout="parquet")
    other = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(other, "PNG")
    rewrite(out / "00000.parquet", "image", lambda images: [{**images[0], "bytes": other.getvalue()}, *images[1:]])
    assert list(verify(str(out)).bad) == [0]


def test_files_that_readers_would_take_in_are_named(output: Callable[..., Path]) -> None:
    out = output()
    (out / "README.md").write_text("mine")
    for name in ("00007.parquet", "extra.parquet", "000001.parquet"):
        shutil.copy(out / "00000.parquet", out / name)
    report = verify(str(out))
    assert report.surplus == ("000001.parquet", "00007.parquet", "extra.parquet")
    assert not report.ok


def test_a_sample_checks_that_many_shards(output: Callable[..., Path]) -> None:
    report = verify(str(output()), sample=2)
    assert (report.shards, report.ok) == (2, True)
