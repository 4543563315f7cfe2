"""Scores of an existing output."""

from __future__ import annotations

import functools
import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sdbatch
from sdbatch.cli import main
from sdbatch.errors import StorageError, UsageError
from sdbatch.output.score_run import score
from sdbatch.scoring.quality import Entropy
from tests.gallery.outputs import write_output
from tests.outputs import content

ROWS = [{"prompt": f"a picture {i}", "tag": "even" if i % 2 == 0 else "odd"} for i in range(5)]
ROWS[3]["error"] = "no such sampler"


@pytest.fixture
def out(tmp_path):
    return write_output(tmp_path / "out", ROWS, shard_size=2, layout="parquet")


def test_scores_are_the_scorers_and_change_nothing_else(out, capsys):
    before = content(out)
    assert main(["score", str(out), "--scorer", "entropy"]) == 0
    assert "4 pictures in 3 shards scored" in capsys.readouterr().out
    assert {name: digest for name, digest in content(out).items() if not name.startswith("__scores__")} == before
    rows = list(sdbatch.open(str(out)))
    wanted = [
        None if r["image"] is None else Entropy().score([np.asarray(r["image"])], [None])[0]["entropy"] for r in rows
    ]
    assert [row["entropy"] for row in rows] == wanted and wanted.count(None) == 1
    # A second scorer adds its column; what is there is not made again.
    stamp = (out / "__scores__" / "00000.parquet").stat().st_mtime_ns
    assert main(["score", str(out), "--scorer", "entropy"]) == 0
    assert (
        "0 pictures" in capsys.readouterr().out and (out / "__scores__" / "00000.parquet").stat().st_mtime_ns == stamp
    )
    (out / "__scores__" / "00001.parquet").unlink()
    assert score(str(out), ["entropy", "sharpness"]).shards == 3
    frame = sdbatch.open(str(out)).to_pandas()
    assert frame["entropy"].notna().sum() == 4 and frame["sharpness"].notna().sum() == 4
    ray_columns = pq.read_schema(out / "__scores__" / "00002.parquet").names
    assert ray_columns == ["key", "entropy", "sharpness"]
    main(["verify", str(out)])
    assert "__scores__" not in capsys.readouterr().out


def test_shards_without_scores_have_nulls_beside_others(out):
    score(str(out), ["entropy"], part=(2, 3))
    values = [row["entropy"] for row in sdbatch.open(str(out))]
    assert [value is None for value in values] == [True, True, False, True, True]


def test_what_cannot_be_is_told(out, capsys, tmp_path):
    score(str(out), ["entropy"])
    path = out / "__scores__" / "00001.parquet"
    table = pq.read_table(path)
    made_with = json.loads(table.schema.metadata[b"sdbatch"])
    assert made_with["scorers"].keys() == {"entropy"}
    made_with["scorers"]["entropy"] = {"version": "of another time"}
    pq.write_table(table.replace_schema_metadata({b"sdbatch": json.dumps(made_with)}), path)
    with pytest.raises(UsageError, match="--again replaces"):
        score(str(out), ["entropy"])
    assert score(str(out), ["entropy"], again=True).shards == 3
    # Scores of an output that this one has replaced count for nothing.
    made_with["run"] = "0" * 32
    pq.write_table(table.replace_schema_metadata({b"sdbatch": json.dumps(made_with)}), path)
    assert [row["entropy"] is None for row in sdbatch.open(str(out))] == [False, False, True, True, False]
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(StorageError, match=r"00001\.parquet: is damaged"):
        list(sdbatch.open(str(out)))
    taken = write_output(tmp_path / "taken", [{"prompt": "a", "entropy": 1.0}])
    for arguments, word in (
        ([taken, "--scorer", "entropy"], "has a column 'entropy' already"),
        ([out, "--scorer", "nothing"], "known names"),
        ([out], "name at least one"),
        ([tmp_path, "--scorer", "entropy"], "has no run.json"),
    ):
        assert main(["score", *map(str, arguments)]) == 2
        assert word in capsys.readouterr().err


STRANGE = {
    "no key": lambda table: table.drop_columns("key"),
    "numbers for keys": lambda table: table.set_column(0, "key", pa.array([1, 2])),
    "two columns of one name": lambda table: pa.Table.from_arrays(
        [*table.columns, table.columns[-1]], ["key", "e", "e"]
    ),
    "lists": lambda table: table.append_column("x", pa.array([[1], None])),
    "another type than beside other shards": lambda table: table.set_column(1, "entropy", pa.array(["a", None])),
    "too few rows": lambda table: table.slice(1),
    "too many rows": lambda table: pa.concat_tables([table, table]),
    "other keys": lambda table: table.set_column(0, "key", pa.array(["x", "y"])),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_strange_table_of_scores_is_named(out, capsys, tmp_path, change):
    score(str(out), ["entropy"])
    path = out / "__scores__" / "00001.parquet"
    pq.write_table(change(table := pq.read_table(path)).replace_schema_metadata(table.schema.metadata), path)
    for arguments in (["export", out, tmp_path / "dest"], ["gallery", out], ["sheet", out, tmp_path / "s.png"]):
        assert main([*map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "00001.parquet: " in line and "score again" in line and "unexpected" not in line
    assert main(["verify", str(out)]) == 1  # one row has no image


def test_no_content_of_a_table_of_scores_ends_its_readers(out, capsys, tmp_path):
    score(str(out), ["entropy"])
    path = out / "__scores__" / "00001.parquet"
    content, table = path.read_bytes(), pq.read_table(path)
    for name in (".00001.parquet-0f", "_SUCCESS", "notes.parquet", "٣٣٣٣٣.parquet", "9" * 40 + ".parquet"):
        (path.parent / name).write_bytes(b"")
    for note in (b"", b"[" * 200_000, b'{"run": 5}', b'{"scorers": []}', b"\xff"):  # no table of this output
        pq.write_table(table.replace_schema_metadata({b"sdbatch": note}), path)
        assert main(["export", str(out), str(tmp_path / "dest")]) == 0
    path.write_bytes(content.replace(b"entropy", b"\xff\xfetropy"))
    assert main(["export", str(out), str(tmp_path / "dest")]) == 2
    assert "00001.parquet: is damaged; remove it" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_named(out, capsys):
    (out / "__scores__").write_bytes(b"")
    assert main(["score", str(out), "--scorer", "entropy"]) == 2
    assert "cannot write" in (line := capsys.readouterr().err) and "File exists" in line


WEIGHTS = {
    "pipe": "no such file",
    "/dev/zero": "no such file",
    "~nobody/x": "no such file",
    "x" * 5000: "no such file",
    "sparse": "is a file; expected",
    "many": "holds more than",
    "endless": "config.json: is not a regular file",
    "large": "config.json: has 214,748,364,800 bytes",
    "huge": "holds more than",
}


@pytest.mark.parametrize("place", WEIGHTS)
def test_no_path_of_a_scorers_weights_hangs(out, capsys, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name in ("many", "endless", "large", "huge"):
        os.mkdir(name)
    for number in range(1_001):
        (tmp_path / "many" / f"{number}").touch()
    os.symlink("/dev/zero", "endless/config.json")
    for name in ("sparse", "large/config.json", "huge/model.safetensors"):
        with open(name, "wb") as file:
            file.truncate(200 << 30)
    (tmp_path / "p.csv").write_text("prompt\na\n")
    for arguments in (["plan", "p.csv", "new"], ["score", str(out)]):
        assert main([*arguments, "--scorer", "clip", "--scorer-model", f"clip={place}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert place in line and WEIGHTS[place] in line


def broken(picture: Image.Image, row) -> float:
    if row["prompt"].endswith("2"):
        raise RuntimeError("no idea")
    return float(picture.width)


def sized(factor: float, picture: Image.Image, row) -> float:
    return factor * picture.width


double = functools.partial(sized, 2.0)


def test_a_partial_function_scores(out, capsys):
    for pictures in ("4 pictures", "0 pictures"):
        assert main(["score", str(out), "--scorer", "tests.output.test_scores:double"]) == 0
        assert pictures in capsys.readouterr().out
    assert [row["double"] for row in sdbatch.open(str(out))] == [128.0, 128.0, 128.0, None, 128.0]


def test_a_picture_that_a_scorer_fails_on_costs_itself(out, capsys):
    for pictures in ("4 pictures", "0 pictures"):  # the second time from the tables
        assert main(["score", str(out), "--scorer", "tests.output.test_scores:broken"]) == 1
        said = capsys.readouterr().out
        assert "1 without a score: scorer tests.output.test_scores:broken: RuntimeError: no idea" in said
        assert pictures in said
    assert main(["score", str(out), "--scorer", "entropy"]) == 0  # another scorer's failures are not its own
    assert [row["broken"] for row in sdbatch.open(str(out))] == [64.0, 64.0, None, None, 64.0]


@pytest.mark.parametrize("ending", ["SystemExit(3)", "GeneratorExit", "type('Own', (BaseException,), {})('mine')"])
def test_a_scorer_that_ends_the_process_costs_its_pictures(out, capsys, tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "endings.py").write_text(f"def ends(picture, row):\n    raise {ending}\n")
    monkeypatch.delitem(sys.modules, "endings", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["score", str(out), "--scorer", "endings:ends"]) == 1
    assert "without a score: scorer endings:ends: " in capsys.readouterr().out


def test_a_scorer_whose_module_exits_is_named(out, capsys, tmp_path, monkeypatch):
    (tmp_path / "exiting.py").write_text("raise SystemExit(4)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["score", str(out), "--scorer", "exiting:f"]) == 2
    assert "can't be imported: SystemExit: 4" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "words"), [("clip=x", "there is no --scorer clip"), ("phash=", "no such file")])
def test_weights_that_no_scorer_reads_are_refused(out, capsys, given, words):
    assert main(["score", str(out), "--scorer", "phash", "--scorer-model", given]) == 2
    assert words in capsys.readouterr().err
