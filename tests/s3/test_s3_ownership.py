"""On object stores, too, only this output's files are deleted or overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from sdbatch.diffusion import inspect_model
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import UsageError
from sdbatch.gallery import write_sheet
from sdbatch.output.manifest_files import load_manifest
from sdbatch.plan.planning import make_plan
from sdbatch.run.opening import Overtaken, open_out
from sdbatch.settings import RunSettings
from tests.output.writing import write_output
from tests.s3.server import S3Server
from tests.tables import write_table

FAST = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)
OTHERS = ("20240101/mine.png", "20240101.parquet", "00000.tar", "00000/notes.txt", "gallery/mine.html")


@pytest.fixture
def raw(s3_server: S3Server) -> s3fs.S3FileSystem:
    """The bucket as its owner sees it."""
    return s3fs.S3FileSystem(**s3_server.options, use_listings_cache=False, skip_instance_cache=True)


def engine_of(lanes: int) -> EngineSettings:
    return EngineSettings(device="cpu", dtype="fp32", lanes=lanes, threads=1, compile="off")


def files(raw: s3fs.S3FileSystem, url: str) -> dict[str, bytes]:
    """The content of every object below a URL."""
    root = url.removeprefix("s3://")
    return {path.removeprefix(root + "/"): raw.cat_file(path) for path in raw.find(root)}


def test_overwrite_removes_what_runs_made_and_only_that(
    tmp_path: Path, bucket: str, s3_server: S3Server, raw: s3fs.S3FileSystem, stand_in_command: Callable
) -> None:
    options, out = json.dumps(s3_server.options), f"{bucket}/run::2"
    for name in OTHERS:
        raw.pipe_file(f"{bucket}/run::2/{name}", name.encode())
        raw.pipe_file(f"{bucket}/run/{name}", name.encode())
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 12})
    stand_in_command("generate", prompts, out, *FAST, "--storage-options", options, "--overwrite")
    write_table(Path(prompts), {"prompt": ["two"] * 3})
    stand_in_command("generate", prompts, out, *FAST, "--storage-options", options, "--overwrite")
    stand_in_command("generate", prompts, tmp_path / "fresh", *FAST)
    after = files(raw, out)
    assert {name: after.pop(name) for name in OTHERS} == {name: name.encode() for name in OTHERS}
    assert files(raw, f"{bucket}/run") == {name: name.encode() for name in OTHERS}
    pictures = {name for name in after if name[0].isdigit()}
    fresh = [p for p in (tmp_path / "fresh").rglob("*") if p.is_file()]
    names = {str(p.relative_to(tmp_path / "fresh")) for p in fresh}
    assert pictures == {name for name in names if name[0].isdigit()}


def test_an_overwrite_that_is_cut_short_is_finished_and_a_faster_run_is_seen(
    tmp_path: Path, bucket: str, s3_server: S3Server, raw: s3fs.S3FileSystem
) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 12})
    out = f"{bucket}/out"
    write_output(out, prompts, layout="parquet", storage_options=s3_server.options)
    raw.pipe_file(f"{out}/00007.parquet", b"mine")
    settings = RunSettings(overwrite=True, shard_size=4, storage_options=s3_server.options)
    first, second = (make_plan(prompts, out, settings) for _ in range(2))
    assert len(first.todo) == 3 and files(raw, out).keys() >= {"00002.parquet", "00002_stats.json"}
    open_out(first, engine_of(8))
    assert files(raw, out).keys() == {"run.json", "replaced.json", "00007.parquet"}
    with pytest.raises(Overtaken):
        open_out(second, engine_of(4))
    assert load_manifest(first.out).engine.lanes == 8


@pytest.mark.parametrize("name", ["00001.parquet", "00000/000000003.png", "inputs-0001.json"])
def test_names_to_be_written_the_table_and_the_model_are_refused(
    tmp_path: Path, bucket: str, s3_server: S3Server, raw: s3fs.S3FileSystem, name: str
) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 12})
    raw.pipe_file(f"{bucket}/out/{name}", b"mine")
    for overwrite in (False, True):
        settings = RunSettings(shard_size=4, storage_options=s3_server.options, overwrite=overwrite)
        with pytest.raises(UsageError, match=name):
            make_plan(prompts, f"{bucket}/out", settings)
    raw.put(prompts, f"{bucket}/data/in/00000.parquet")
    for table, out in (("data/in", "data/in"), ("data/in/00000.parquet", "data"), ("data/*/*.parquet", "data/out")):
        with pytest.raises(UsageError, match="prompt table"):
            make_plan(f"{bucket}/{table}", f"{bucket}/{out}", settings)
    shutil.copytree(inspect_model("tiny").folder, tmp_path / "mine")
    settings = RunSettings(model=f"{bucket}/models/mine", storage_options=s3_server.options)
    raw.put(str(tmp_path / "mine"), f"{bucket}/models/mine", recursive=True)
    with pytest.raises(UsageError, match="holds the model"):
        make_plan(prompts, f"{bucket}/models", settings)


def test_a_sheet_is_not_written_over_a_shard(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 4})
    write_output(f"{bucket}/out", prompts, storage_options=s3_server.options)
    for name in ("00000.parquet", "00000/000000001.png", "run.json"):
        with pytest.raises(UsageError, match="choose another PATH"):
            write_sheet(f"{bucket}/out", f"{bucket}/out/{name}", options=s3_server.options)
    write_sheet(f"{bucket}/out", f"{bucket}/sheet.png", options=s3_server.options)
