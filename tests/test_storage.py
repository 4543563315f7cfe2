"""One interface for every file system: local disks here, a real S3 server in test_s3.py."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdbatch.errors import StorageError, UsageError
from sdbatch.storage.store import Store


def test_what_is_written_is_read_and_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "deep" / "out"))
    assert store.entries() == {}
    store.write("a/b.txt", b"12345")
    store.write("run.json", b"{}")
    assert store.read("a/b.txt") == b"12345"
    assert store.entries() == {"a/": 0, "run.json": 2}
    assert (tmp_path / "deep" / "out" / "a" / "b.txt").read_bytes() == b"12345"
    assert list(store.read_many(["run.json", "a/b.txt"])) == [b"{}", b"12345"]
    assert store.exists("a/b.txt")
    store.remove_many(["a/b.txt"])
    store.remove("never there")
    assert not store.exists("a/b.txt")


def test_a_relative_path_means_the_same_after_pickling_and_moving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Store("out"))
    monkeypatch.chdir("/")
    pickle.loads(pickled).write("x", b"1")
    assert (tmp_path / "out" / "x").read_bytes() == b"1"


def test_names_with_glob_characters_are_names(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run[1]*"))
    store.write("x?.json", b"1")
    assert store.entries() == {"x?.json": 1}
    assert list(store.read_many(["x?.json"])) == [b"1"]


def test_a_stream_that_fails_is_produced_again_from_its_start(tmp_path: Path) -> None:
    store, calls = Store(str(tmp_path)), []
    store.probe()  # one that never answered would be given up sooner

    def produce(file) -> None:
        calls.append(1)
        file.write(b"part")
        if len(calls) < 3:
            raise ConnectionResetError("dropped")
        file.write(b" and part")

    store.write_stream("x", produce)
    assert (tmp_path / "x").read_bytes() == b"part and part"


def test_a_listing_survives_what_vanishes_and_dangles(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"1")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert store.entries() == {"x": 1, "dangling": 0}


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    Store(str(tmp_path)).probe()
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line_that_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=rf"cannot read {tmp_path}/missing: there is no such file"):
        Store(str(tmp_path)).read("missing")
    with pytest.raises(StorageError, match=rf"cannot write to {tmp_path}/file/out: "):
        Store(str(tmp_path / "file" / "out")).probe()


def test_a_full_disk_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="cannot write /dev/full: No space left on device"):
        Store("/dev").write("full", b"x" * 100_000)


def test_passwords_in_urls_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as error:
        Store("ftp://me:hunter2@host/data")
    assert "hunter2" not in str(error.value)
    assert Store("abfs://container@account.dfs.core.windows.net/x").url.startswith("abfs://container@")


def test_an_unknown_protocol_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nosuch://x"):
        Store("nosuch://x").entries()


def test_memory_store_round_trip() -> None:
    store = Store("memory://sdbatch-test/out")
    store.write("00000_stats.json", b"{}")
    store.write("00000/x.png", b"abc")
    assert store.entries() == {"00000_stats.json": 2, "00000/": 0}
    store.remove_many(["00000_stats.json", "00000/x.png"])
    assert "00000_stats.json" not in store.entries()


@pytest.mark.parametrize("name", ["run::2", "memory::x", "simplecache::deep/run", "a:b"])
def test_local_paths_are_local_whatever_is_in_their_names(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / name))
    store.write("x", b"1")
    assert (tmp_path / name / "x").read_bytes() == b"1"
    assert store.read("x") == b"1" and store.entries() == {"x": 1}


@pytest.mark.parametrize(
    "address", ["simplecache::s3://b/x", "zip://a.parquet::s3://b/x.zip", "zip://x.zip", "s3://b/x::s3://b/y", "a\0b"]
)
def test_what_no_store_is_named_by_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"not supported|NUL"):
        Store(address)


def test_of_many_who_create_a_file_one_succeeds_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("run.json", b"%d" % i), range(24)))
    assert won.count(True) == 1
    assert store.read("run.json") == b"%d" % won.index(True)
    store.replace("run.json", b"later")
    assert store.head("run.json", 2) == b"la"
    assert list(store.entries()) == ["run.json"]


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": "http://me:hidden@127.0.0.1:1"},
        {"client_kwargs": {"endpoint_url": "http://hidden@127.0.0.1:1/x"}},
    ],
)
def test_credentials_in_an_endpoint_are_refused_at_once_and_not_printed(options):
    with pytest.raises(UsageError, match="must not contain a user or a password") as caught:
        Store("s3://bucket/out", options)
    assert "hidden" not in str(caught.value)


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    (mine / "folder").mkdir(parents=True)
    (mine / "file").write_bytes(b"mine")
    out.mkdir()
    (out / "file").symlink_to(mine / "file")
    (out / "folder").symlink_to(mine / "folder")
    os.mkfifo(out / "pipe")
    store = Store(str(out))
    store.write("file", b"ours")
    store.write("folder/file", b"ours")
    store.write_stream("file", lambda file: file.write(b"ours"))
    with pytest.raises(StorageError, match="it is a pipe"):
        store.write("pipe", b"ours")
    assert (mine / "file").read_bytes() == b"mine" and not list((mine / "folder").iterdir())
    assert (out / "file").read_bytes() == (out / "folder/file").read_bytes() == b"ours"
