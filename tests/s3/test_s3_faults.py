"""A store that answers with errors, slowly, or not at all: the output is the same, or one line gives the reason."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from sdbatch.errors import StorageError
from sdbatch.output.dataset import open_dataset
from sdbatch.output.status import status
from sdbatch.output.verify import verify
from sdbatch.prompts import check_table, list_inputs, read_rows
from sdbatch.settings import LAYOUTS, RunSettings
from sdbatch.storage import connection
from sdbatch.storage.store import Store
from tests.output.writing import write_output
from tests.outputs import is_of_a_run
from tests.s3.proxy import NO_FAULTS, Faults, faulty_proxy
from tests.s3.server import S3Server
from tests.tables import write_table


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_output_through_a_faulty_network_is_the_same(
    tmp_path: Path, bucket: str, s3_server: S3Server, layout: str
) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"p{i}" for i in range(48)]})
    local = tmp_path / "out"
    write_output(str(local), prompts, shard_rows=6, layout=layout)
    Store(bucket, s3_server.options).write("p.parquet", Path(prompts).read_bytes())
    with faulty_proxy(s3_server.port, seed=7) as proxy:
        options = s3_server.options | {"endpoint_url": proxy.endpoint}
        write_output(f"{bucket}/out", f"{bucket}/p.parquet", 6, layout=layout, storage_options=options)
        assert status(f"{bucket}/out", options).complete
        assert verify(f"{bucket}/out", options).ok
        assert [row["prompt"] for row in open_dataset(f"{bucket}/out", options)] == [f"p{i}" for i in range(48)]
        assert proxy.fates["error"] >= 3 and proxy.fates["cut_before"] >= 1 and proxy.fates["slow"] >= 1
    remote = Store(f"{bucket}/out", s3_server.options)
    for path in sorted(path for path in local.rglob("*") if path.is_file()):
        name = str(path.relative_to(local))
        if not is_of_a_run(name):  # the manifest names the input, markers the run
            assert remote.read(name) == path.read_bytes()


def test_a_large_file_survives_faults_in_its_parts(bucket: str, s3_server: S3Server) -> None:
    data = random.Random(1).randbytes(1 << 20) * 40
    with faulty_proxy(s3_server.port, Faults(error=0.2, cut_before=0.1, cut_within=0.1), seed=3) as proxy:
        store = Store(bucket, s3_server.options | {"endpoint_url": proxy.endpoint})
        store.write_stream(
            "large", lambda file: [file.write(data[i : i + (4 << 20)]) for i in range(0, len(data), 4 << 20)]
        )
        assert sum(proxy.fates.values()) - proxy.fates["none"] >= 1
    assert Store(bucket, s3_server.options).read("large") == data


def test_a_large_table_is_read_through_faults(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    chance = random.Random(5)
    table = pa.table({"prompt": [chance.randbytes(300).hex() for _ in range(30_000)]})
    path = write_table(tmp_path / "p.parquet", table, row_group_size=10_000)
    Store(bucket, s3_server.options).write("p.parquet", Path(path).read_bytes())
    with faulty_proxy(s3_server.port, Faults(error=0.1, cut_before=0.05, cut_within=0.05), seed=4) as proxy:
        options = s3_server.options | {"endpoint_url": proxy.endpoint}
        (file,) = list_inputs(f"{bucket}/p.parquet", options)
        columns = check_table([file], RunSettings())
        tables = list(read_rows(file, columns, [(0, 15_000), (15_000, 15_000)], options))
    assert pa.concat_tables(tables).equals(table)


def test_a_store_that_only_fails_is_given_up_with_one_line(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ATTEMPTS", 1)
    with faulty_proxy(s3_server.port, Faults(error=1.0, cut_before=0, cut_within=0, slow=0)) as proxy:
        options = s3_server.options | {
            "endpoint_url": proxy.endpoint,
            "config_kwargs": {"retries": {"max_attempts": 1}},
        }
        store = Store(f"{bucket}/out", options)
        with pytest.raises(StorageError, match=f"cannot write {bucket}/out/x: ") as error:
            store.write("x", b"1")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_costs_one_request_a_file_and_no_listing(
    tmp_path: Path, bucket: str, s3_server: S3Server, layout: str
) -> None:
    prompts = write_table(tmp_path / "p.parquet", {"prompt": [f"p{i}" for i in range(6)]})
    write_output(str(tmp_path / "out"), prompts, shard_rows=3, layout=layout)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    with faulty_proxy(s3_server.port, NO_FAULTS) as proxy:
        options = s3_server.options | {"endpoint_url": proxy.endpoint}
        write_output(f"{bucket}/out", prompts, shard_rows=3, layout=layout, storage_options=options)
        of_shards = [request for request in proxy.requests if "run.json" not in request]
        assert sorted(request.split()[0] for request in of_shards) == ["PUT"] * (len(files) - 1)
        proxy.requests.clear()
        assert status(f"{bucket}/out", options).complete
        # With `max-keys=1`, s3fs asks after a single file that is not there.
        listings = [r for r in proxy.requests if "list-type" in r and "max-keys=1&" not in r]
        assert len(listings) == 1 and "delimiter=%2F" in listings[0]
