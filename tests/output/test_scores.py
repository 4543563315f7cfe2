"""Scores of an existing output."""

from __future__ import annotations

import json

import numpy as np
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
        ([out, "--scorer", "nothing"], "known are"),
        ([out], "name at least one"),
        ([tmp_path, "--scorer", "entropy"], "no finished shard"),
    ):
        assert main(["score", *map(str, arguments)]) == 2
        assert word in capsys.readouterr().err


def broken(picture: Image.Image, row) -> float:
    if row["prompt"].endswith("2"):
        raise RuntimeError("no idea")
    return float(picture.width)


def test_a_picture_that_a_scorer_fails_on_costs_itself(out, capsys):
    assert main(["score", str(out), "--scorer", "tests.output.test_scores:broken"]) == 1
    assert "1 without a score: scorer tests.output.test_scores:broken: RuntimeError: no idea" in capsys.readouterr().out
    assert [row["broken"] for row in sdbatch.open(str(out))] == [64.0, 64.0, None, None, 64.0]
