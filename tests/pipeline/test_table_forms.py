"""Tables in other forms than Parquet are run as they are planned: files of other tools, and what Python holds."""

from __future__ import annotations

import io
import os
import shutil

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
from PIL import Image

import sdbatch
from benchmarks.standin import StandIn
from sdbatch.output.manifest_files import read_manifest
from sdbatch.output.verify import verify
from sdbatch.plan.planning import make_plan
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store
from tests.conftest import REPOSITORY, disconnect

FRAME = pd.DataFrame(
    {"prompt": ["a red circle", "", "a blue square"], "seed": [1, 2, 3], "steps": [2, 2, 3], "id": list("xyz")}
)
STAND_IN = StandIn(step_seconds=0.0, full_size=True)


@pytest.fixture(scope="module")
def connected(ray_session):
    disconnect()
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    ray.init(ray_session, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield
    ray.shutdown()


def kept(out):
    return sorted(path.name for path in (out / "__prompts").iterdir())


def forms(folder):
    """Tables of the same prompts, and the options that they need."""
    FRAME.to_excel(folder / "p.xlsx", index=False)
    yield folder / "p.xlsx", {}
    datasets.Dataset.from_pandas(FRAME).save_to_disk(folder / "saved", num_shards=2)
    yield folder / "saved", {}
    (folder / "texts").mkdir()
    for name, prompt in zip(FRAME["id"], FRAME["prompt"], strict=True):
        (folder / "texts" / f"{name}.txt").write_text(f"{prompt}\n")
    yield folder / "texts", {"prompt_per_file": True}
    (folder / "differ").mkdir()
    FRAME[:1].astype({"steps": float}).to_parquet(folder / "differ" / "0.parquet")
    FRAME[1:].drop(columns="seed").to_parquet(folder / "differ" / "1.parquet")
    yield folder / "differ", {}
    FRAME.to_json(folder / "lines.json", orient="records", lines=True)
    yield folder / "lines.json", {}
    text = FRAME.assign(steps=["2", 2, 3]).to_json(orient="records", lines=True)
    (folder / "mixed.jsonl").write_text(text)
    yield folder / "mixed.jsonl", {}
    shutil.copy(REPOSITORY / "tests" / "prompts" / "polars" / "xyz.arrow", folder)
    yield folder / "xyz.arrow", {}


def test_each_form_is_run_as_it_is_planned(tmp_path, connected):
    for path, options in forms(tmp_path):
        out = str(tmp_path / f"out-{path.name}")
        plan = make_plan(str(path), out, RunSettings.from_options(options))
        report = sdbatch.generate(str(path), out, make_engine=STAND_IN, **options)
        assert (report.rows, report.ok, report.failed) == (plan.rows, 2, 1), path
        made = sdbatch.open(out).to_pandas()
        assert made["id"].tolist() == list("xyz"), path
        assert made["prompt"].fillna("").tolist() == FRAME["prompt"].tolist(), path
        if "steps" in plan.columns.settings:
            assert made["steps"].tolist() == [2, 2, 3], path


def test_a_given_table_is_kept_continued_and_replaced(tmp_path, connected):
    out = tmp_path / "out"
    made = sdbatch.generate(FRAME, str(out), make_engine=STAND_IN, shard_size=1)
    assert (made.ok, made.failed, made.made) == (2, 1, 3)
    (name,) = kept(out)
    (entry,) = read_manifest(Store(str(out))).inputs
    assert entry["stamp"].startswith("sha256:" + name.removesuffix(".parquet"))
    # Equal rows in another form, and the file itself, continue it.
    (out / "00001_stats.json").unlink()
    again = sdbatch.generate(FRAME.to_dict("records"), str(out), make_engine=STAND_IN)
    assert (again.ok, again.failed, again.made) == (2, 1, 1)
    assert sdbatch.generate(str(out / "__prompts" / name), str(out), make_engine=STAND_IN).made == 0
    moved = out.rename(tmp_path / "moved")
    assert sdbatch.generate(ray.data.from_pandas(FRAME), str(moved), make_engine=STAND_IN).made == 0
    frame = sdbatch.open(str(moved)).to_pandas()
    assert frame["id"].tolist() == list("xyz") and frame["source_row"].tolist() == [0, 1, 2]
    assert verify(str(moved)).ok
    # Other rows are refused, and take its place with --overwrite.
    other = FRAME.assign(prompt="a green cross")
    with pytest.raises(sdbatch.UsageError, match="was started with another table, __prompts/"):
        sdbatch.generate(other, str(moved), make_engine=STAND_IN)
    assert kept(moved) == [name]
    with pytest.raises(sdbatch.InputError, match="the given table: has no column 'prompt'"):
        sdbatch.generate(FRAME[["id"]], str(moved), make_engine=STAND_IN, overwrite=True)
    assert sdbatch.generate(other, str(moved), make_engine=STAND_IN, overwrite=True).made == 3
    assert len(kept(moved)) == 1 and kept(moved) != [name]


def with_length(row):
    return row | {"length": len(row["prompt"])}


def with_mean(row):
    mean = None if row["image"] is None else float(np.asarray(Image.open(io.BytesIO(row["image"]))).mean())
    return row | {"mean": mean}


def test_the_generator_in_a_graph_makes_the_pictures_of_generate(tmp_path, connected):
    sdbatch.generate(FRAME, str(tmp_path / "out"), layout="parquet", negative_prompt="noise", cpus_per_actor=1)
    expected = {row["id"]: row for row in sdbatch.open(str(tmp_path / "out")).to_ray().take_all()}
    graph = (
        ray.data.from_arrow(pa.Table.from_pandas(FRAME))
        .map(with_length)
        .map_batches(
            sdbatch.ImageGenerator,
            fn_constructor_kwargs={"negative_prompt": "noise"},
            batch_format="pyarrow",
            concurrency=1,
            num_cpus=1,
        )
        .map(with_mean)
    )
    made = {row["id"]: row for row in graph.take_all()}
    assert made.keys() == expected.keys()
    for name, row in made.items():
        theirs = {
            key: value for key, value in expected[name].items() if key not in ("key", "source_file", "source_row")
        }
        assert {key: value for key, value in row.items() if key not in ("length", "mean")} == theirs
        assert row["length"] == len(row["prompt"])
    assert made["y"]["status"] == "failed" and made["y"]["error"] == "prompt is empty" and made["y"]["image"] is None
    assert made["x"]["mean"] is not None


def test_the_generator_refuses_what_no_row_can_be_made_of():
    prompts = pa.table({"prompt": ["a red circle"]})
    generator = sdbatch.ImageGenerator(steps=1, lanes=2, height=64, width=64, cpus_per_actor=1)
    with pytest.raises(sdbatch.InputError, match="the batch: has no column 'prompt'"):
        generator(prompts.rename_columns(["caption"]))
    with pytest.raises(sdbatch.InputError, match="column 'status' has the name of the output's column"):
        generator(prompts.append_column("status", [["x"]]))
    assert generator(prompts)["status"].to_pylist() == ["ok"]
    wrong = sdbatch.ImageGenerator(sampler="nope", steps=1, lanes=2, cpus_per_actor=1)
    with pytest.raises(sdbatch.UsageError, match="these settings cannot produce an image: unknown sampler 'nope'"):
        wrong(prompts)
    with pytest.raises(TypeError, match="unknown option 'stepz'; did you mean 'steps'"):
        sdbatch.ImageGenerator(stepz=1)
