"""Store on a real S3 server."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs

from sdbatch.errors import InputError, StorageError, UsageError
from sdbatch.output.markers import DamagedMarker, read_marker
from sdbatch.prompts import list_inputs
from sdbatch.storage.store import Store
from tests.s3.proxy import NO_FAULTS, faulty_proxy
from tests.s3.server import S3Server

WRONG_SECRET = "wrong-secret-of-nobody"


def test_what_is_written_is_read_and_listed(bucket: str, s3_server: S3Server) -> None:
    store = pickle.loads(pickle.dumps(Store(f"{bucket}/out/", s3_server.options)))
    assert store.entries() == {}
    store.write("00000/a.png", b"12345")
    store.write("run.json", b"{}")
    assert store.entries() == {"00000/": 0, "run.json": 2}
    assert list(store.read_many(["run.json", "00000/a.png"])) == [b"{}", b"12345"]
    raw = s3fs.S3FileSystem(**s3_server.options)
    assert raw.cat(f"{bucket}/out/00000/a.png") == b"12345"
    store.remove_many(["00000/a.png"])
    store.remove("never there")
    assert not store.exists("00000/a.png")
    assert store.entries().keys() - {"00000/"} == {"run.json"}  # SeaweedFS keeps the empty folder for a while


def test_writes_of_others_are_seen_at_once(bucket: str, s3_server: S3Server) -> None:
    one, two = (Store(f"{bucket}/out", s3_server.options) for _ in range(2))
    assert one.entries() == {}
    two.write("x", b"1")
    assert one.exists("x") and one.entries() == {"x": 1}
    two.write("x", b"234")
    assert one.read("x") == b"234" and one.entries() == {"x": 3}


def test_a_large_stream_is_a_multipart_upload(bucket: str, s3_server: S3Server) -> None:
    store = Store(bucket, s3_server.options)
    piece = bytes(range(256)) * 4096 * 8  # 8 MB

    def produce(file) -> None:
        for _ in range(5):
            file.write(piece)

    store.write_stream("large.tar", produce)
    info = s3fs.S3FileSystem(**s3_server.options).info(f"{bucket}/large.tar")
    assert info["ETag"].strip('"').endswith("-3")  # of three parts
    assert store.read("large.tar") == piece * 5


def test_a_stream_that_breaks_off_leaves_nothing(bucket: str, s3_server: S3Server) -> None:
    store = Store(bucket, s3_server.options)

    def produce(file) -> None:
        file.write(bytes(20 << 20))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.write_stream("half.tar", produce)
    assert not store.exists("half.tar")


def test_files_of_a_folder_and_a_glob_have_their_etags(bucket: str, s3_server: S3Server) -> None:
    store = Store(bucket, s3_server.options)
    for name in ("b", "a"):
        store.write(f"in/{name}.parquet", name.encode())
    files = Store(f"{bucket}/in", s3_server.options).files()
    assert [file.path for file in files] == [f"{bucket}/in/a.parquet", f"{bucket}/in/b.parquet"]
    assert len({file.stamp for file in files}) == 2 and all(len(file.stamp) == 32 for file in files)
    assert Store(f"{bucket}/in/*.parquet", s3_server.options).files() == files
    assert Store(f"{bucket}/in/a.parquet", s3_server.options).files() == files[:1]


def test_the_environment_says_who_and_where(bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    Store(bucket).probe()
    assert Store(bucket).entries() == {}
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        ({"key": "nobody-knows-me"}, "", "the store does not know this access key"),
        ({"secret": WRONG_SECRET}, "", "the secret key is wrong"),
        ({}, "s3://no-such-bucket-here/out", "there is no such bucket"),
        ({"key": "sdbatch-reader", "secret": "reader-secret-9c2e"}, "", "access denied"),
        ({"anon": True, "key": None, "secret": None}, "", "access denied"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "", "Could not connect to the endpoint"),
    ],
)
def test_the_probe_says_what_is_wrong_and_no_secret(
    bucket: str, s3_server: S3Server, change: dict[str, object], where: str, reason: str
) -> None:
    options = s3_server.options | change
    began = time.monotonic()
    with pytest.raises(StorageError) as error:
        Store(where or f"{bucket}/out", options).probe()
    message = str(error.value)
    assert reason in message and (where or bucket) in message
    assert "\n" not in message
    for secret in (options["key"], options["secret"], s3_server.secret):
        assert not secret or secret not in message
    assert time.monotonic() - began < 30


def test_the_probe_leaves_nothing(bucket: str, s3_server: S3Server) -> None:
    store = Store(f"{bucket}/out", s3_server.options)
    store.probe()
    assert store.entries() == {}


@pytest.mark.parametrize(
    ("where", "change", "error", "reason"),
    [
        ("{bucket}/missing.parquet", {}, InputError, "there is no such file"),
        ("s3://no-such-bucket-here/p.parquet", {}, StorageError, "there is no such bucket"),
        ("{bucket}/p.parquet", {"kye": "x"}, UsageError, "the client has no storage option 'kye'"),
        ("{bucket}/p.parquet", {"anon": "no"}, UsageError, "'anon' is 'no'; expected true or false"),
        ("{bucket}/p.parquet", {"client_kwargs": 3}, UsageError, "'client_kwargs' is '3'; expected an object"),
        ("{bucket}/*.parquet", {}, InputError, "there is no such file"),
        ("{bucket}/p.parquet", {"secret": WRONG_SECRET}, StorageError, "secret key is wrong|access denied"),
        ("{bucket}/p.parquet", {"endpoint_url": "http://127.0.0.1:9"}, StorageError, "Could not connect"),
    ],
)
def test_a_prompt_table_that_cannot_be_had_is_named(
    bucket: str, s3_server: S3Server, where: str, change: dict[str, str], error: type[Exception], reason: str
) -> None:
    where = where.format(bucket=bucket)
    with pytest.raises(error, match=reason) as raised:
        list_inputs(where, s3_server.options | change)
    assert where in str(raised.value) and WRONG_SECRET not in str(raised.value)


def test_of_many_who_create_a_file_one_succeeds(bucket: str, s3_server: S3Server) -> None:
    store = Store(f"{bucket}/out", s3_server.options)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("run.json", b"%d" % i), range(16)))
    assert won.count(True) == 1
    assert store.read("run.json") == b"%d" % won.index(True)
    store.replace("run.json", b"later")
    assert store.head("run.json", 2) == b"la"


def test_a_key_may_hold_what_fsspec_takes_for_two_urls(bucket: str, s3_server: S3Server) -> None:
    store = Store(f"{bucket}/run::2", s3_server.options)
    store.write("x", b"1")
    assert store.entries() == {"x": 1}
    assert s3fs.S3FileSystem(**s3_server.options).cat(f"{bucket}/run::2/x") == b"1"


def test_a_file_is_read_up_to_a_size_with_one_request(bucket: str, s3_server: S3Server) -> None:
    with faulty_proxy(s3_server.port, NO_FAULTS) as proxy:
        store = Store(f"{bucket}/out", s3_server.options | {"endpoint_url": proxy.endpoint})
        store.write("marker", b"12345")
        store.write("empty", b"")
        before = len(proxy.requests)
        assert store.read("marker") == store.read("marker", 5) == b"12345"
        with pytest.raises(StorageError, match=r"marker: it is larger than the maximum of 4 bytes"):
            store.read("marker", 4)
        with pytest.raises(StorageError, match=r"marker: it is larger than the maximum of 4 bytes"):
            store.read_if_there("marker", 4)
        assert len(proxy.requests) - before == 4
        assert store.read("empty", 4) == store.head("empty", 4) == b""
        assert store.read_if_there("missing", 4) is None


def test_a_marker_that_is_too_large_is_damaged(bucket: str, s3_server: S3Server) -> None:
    store = Store(f"{bucket}/out", s3_server.options)
    store.write("00000_stats.json", bytes((16 << 20) + 1))
    with pytest.raises(DamagedMarker, match=r"is damaged \(it is too large\); the next run makes its shard again"):
        read_marker(store, 0)
