"""Pictures and metadata equal those of earlier versions: the same bytes on the same processor, 2 of 255 elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unchanged.record import RECORDED, rows_of
from tests.unchanged.runs import RUNS, build_models, build_table, processor


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return build_models(tmp_path_factory.mktemp("models"))


# Their models, layouts, tables and settings are in the others, too, but not in these combinations.
LONG = ("samplers-v", "mixed-files", "limited")


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.long) if title in LONG else title for title in RUNS]
)
def test_a_run_gives_what_it_gave(title, models, tmp_path, sdbatch_command):
    run, recorded = RUNS[title], pq.read_table(RECORDED / f"{title}.parquet")
    failed = pc.any(pc.equal(recorded["status"], "failed")).as_py()
    out = tmp_path / "out"
    arguments = (
        "generate",
        build_table(tmp_path, run),
        out,
        "--model",
        models[run.model],
        "--actors",
        1,
        *run.arguments,
    )
    sdbatch_command(*arguments, status=1 if failed else 0)
    now = rows_of(out)
    kept = [name for name in recorded.column_names if name not in ("image", "sha256")]
    # Columns may come, none goes; the types of today's stay, but for seeds, which were once signed.
    for name in kept:
        assert now[name].to_pylist() == recorded[name].to_pylist(), name
    _assert_same_pictures(now["image"].to_pylist(), recorded["image"].to_pylist())


def _assert_same_pictures(now: list[bytes | None], recorded: list[bytes | None]) -> None:
    same_processor = json.loads((RECORDED / "made-on.json").read_text())["processor"] == processor()
    different = [i for i, (a, b) in enumerate(zip(now, recorded, strict=True)) if a != b]
    if same_processor:
        assert not different, f"rows {different} have other bytes"
    for i in different:
        images = [Image.open(io.BytesIO(data)) for data in (now[i], recorded[i])]
        pixels = [np.asarray(image.convert("RGB"), dtype=int) for image in images]
        difference = np.abs(pixels[0] - pixels[1])
        # JPEG rounds coefficients of 8x8 blocks, each one way or the other, which spreads a difference over its block.
        largest = np.sqrt((difference**2).mean()) if images[1].format == "JPEG" else difference.max()
        assert largest <= 2, f"row {i}"


def test_the_recorded_runs_are_those_of_the_list():
    assert {path.stem for path in Path(RECORDED).glob("*.parquet")} == set(RUNS)
