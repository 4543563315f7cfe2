"""Rows of many small files on a real S3 server, combined into shards."""

from __future__ import annotations

import json
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from sdbatch.prompts import check_table, list_inputs, read_table
from sdbatch.prompts.shards import Cut
from sdbatch.settings import RunSettings
from sdbatch.storage.parquet import parquet_bytes
from sdbatch.storage.store import Store
from tests.conftest import run_here, stand_in_process
from tests.outputs import content as content_of
from tests.s3.proxy import Faults, faulty_proxy
from tests.s3.server import S3Server


def test_shards_of_many_small_files(bucket: str, s3_server: S3Server) -> None:
    raw = s3fs.S3FileSystem(**s3_server.options)
    for number in range(50):
        with raw.open(f"{bucket}/in/{'deep/' * (number % 2)}{number:03}.parquet", "wb") as file:
            pq.write_table(pa.table({"prompt": [f"{number}, {row}" for row in range(3)]}), file)
    files = list_inputs(f"{bucket}/in/**", s3_server.options)
    assert len(files) == 50
    cut = Cut(16, tuple(file.rows for file in files), (0,))
    spans = [cut.pieces(shard.first_row, shard.rows) for shard in cut]
    columns = check_table(files, RunSettings())
    tables = list(read_table(files, columns, spans, s3_server.options))
    assert [table.num_rows for table in tables] == [16] * 9 + [6]
    assert [column.num_chunks for table in tables for column in table.columns] == [1] * 10
    rows = [prompt for table in tables for prompt in table["prompt"].to_pylist()]
    numbers = [int(file.path.rpartition("/")[2].removesuffix(".parquet")) for file in files]
    assert rows == [f"{number}, {row}" for number in numbers for row in range(3)]


def test_a_plan_asks_for_each_file_three_times_and_for_many_files_at_once(bucket: str, s3_server: S3Server) -> None:
    raw, files = s3fs.S3FileSystem(**s3_server.options), 40
    content = parquet_bytes(pa.table({"prompt": ["a cat"]}))
    for number in range(files):
        raw.pipe_file(f"{bucket}/in/{number:03}.parquet", content)
    with faulty_proxy(s3_server.port, Faults(0, 0, 0, slow=1, slow_s=0.05)) as proxy:
        options = json.dumps({**s3_server.options, "endpoint_url": proxy.endpoint})
        process = run_here(["plan", f"{bucket}/in", f"{bucket}/out", "--storage-options", options])
    assert process.returncode == 0 and f"{files} rows in {files} files" in process.stdout
    asked = Counter(request.partition("?")[0] for request in proxy.requests if ".parquet" in request)
    path = f"/{bucket.removeprefix('s3://')}/in"
    kinds = {"GET": 2, "HEAD": 1}  # content for its columns and for its rows, and its stamp with the latter
    assert asked == {f"{kind} {path}/{n:03}.parquet": times for kind, times in kinds.items() for n in range(files)}
    assert min(proxy.most_at_once[kind] for kind in kinds) > 4


def test_partitions(bucket: str, s3_server: S3Server) -> None:
    raw = s3fs.S3FileSystem(**s3_server.options)
    raw.pipe_file(f"{bucket}/in/_SUCCESS", b"")
    raw.pipe_file(f"{bucket}/in/other/p.parquet", b"no table")
    for style in ("flat", "oil%20paint"):
        raw.pipe_file(f"{bucket}/in/style={style}/", b"")  # some tools create such an object for a folder
        for steps in (3, 4):
            with raw.open(f"{bucket}/in/style={style}/steps={steps}/part-0.parquet", "wb") as file:
                pq.write_table(pa.table({"prompt": [f"{style}, {steps}"]}), file)
    files = list_inputs(f"{bucket}/in", s3_server.options)
    columns = check_table(files, RunSettings())
    cut = Cut(4, tuple(file.rows for file in files), (0,))
    (table,) = read_table(files, columns, [cut.pieces(shard.first_row, shard.rows) for shard in cut], s3_server.options)
    styles, steps = ["flat", "flat", "oil paint", "oil paint"], [3, 4, 3, 4]
    assert (table["style"].to_pylist(), table["steps"].to_pylist()) == (styles, steps)
    assert table.schema.field("steps").type == pa.int32()
    assert table["prompt"].to_pylist() == ["flat, 3", "flat, 4", "oil%20paint, 3", "oil%20paint, 4"]
    for glob in ("in/style=*/*/*.parquet", "in/style=*"):
        assert list_inputs(f"{bucket}/{glob}", s3_server.options) == files
    assert list_inputs(files[0].path, s3_server.options)[0].partitions == files[0].partitions


@pytest.mark.parametrize("kind", ["csv", pytest.param("jsonl", marks=pytest.mark.long)])
def test_a_run_over_small_text_files_that_is_killed_is_resumed_to_the_same_bytes(
    tmp_path, bucket: str, s3_server: S3Server, ray_session, stand_in_command, kind: str
) -> None:
    raw, folder = s3fs.S3FileSystem(**s3_server.options), tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        row = {"prompt": f"a red circle, number {number}", "steps": 6 + number % 5}
        text = f'prompt,steps\n"{row["prompt"]}",{row["steps"]}\n' if kind == "csv" else json.dumps(row) + "\n"
        (folder / f"{number:02}.{kind}").write_text(text)
        raw.pipe_file(f"{bucket}/in/{number:02}.{kind}", text.encode())
    settings = ("--sampler", "euler_a", "--shard-size", "4", "--actors", "1", "--seed", "7", "--lanes", "2")
    out, options = f"{bucket}/out", json.dumps(s3_server.options)
    arguments = ("generate", f"{bucket}/in", out, *settings, "--storage-options", options)
    process = stand_in_process(*arguments, address=ray_session, step_seconds=0.4)
    store, until = Store(out, s3_server.options), time.monotonic() + 180
    while not any(name.endswith("_stats.json") for name in store.entries()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    process.kill()
    process.communicate()
    done = [name for name in store.entries() if name.endswith("_stats.json")]
    assert 0 < len(done) < 8
    stand_in_command(*arguments)
    stand_in_command("generate", folder, tmp_path / "out", *settings)
    raw.get(out, str(tmp_path / "fetched"), recursive=True)
    assert content_of(tmp_path / "fetched") == content_of(tmp_path / "out")
