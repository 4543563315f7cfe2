"""OUT on the Hugging Face hub, through the real command and the real client; the hub is a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdbatch.plan.destination import hub_notices
from sdbatch.storage.store import Store
from tests.conftest import Command, run_here
from tests.gallery.outputs import write_output
from tests.hub.server import TOKEN, Hub
from tests.outputs import write_table

OUT = "hf://datasets/u/n/out"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "p.csv").write_text("prompt,sampler\n" + "".join(f"cat {i},{'no' * (i == 5)}\n" for i in range(7)))
    return tmp_path / "p.csv"


def store_on(hub: Hub, url: str = OUT) -> Store:
    return Store(url, {"endpoint": hub.endpoint, "token": TOKEN})


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{folder}/"): data for name, data in files.items() if name.startswith(f"{folder}/")}


def test_a_shard_is_a_commit(hub, table, stand_in_command: Command):
    repository = hub.make("datasets/u/n")
    options = ["--storage-options", hub.options]
    hub.commits_left = 2  # run.json, and a shard
    said = stand_in_command("generate", table, OUT, "--shard-size", 3, *options, status=3).stderr
    assert "allows 128 commits per hour" in said and "again in an hour" in said
    assert len(repository.commits) == 1 + 2
    hub.commits_left = None
    said = stand_in_command("generate", table, OUT, "--shard-size", 3, *options, status=1).stdout
    assert "7 of them made now" not in said and "6 of 7 images" in said
    assert len(repository.commits) == 1 + 2 + 3  # two shards, and a report
    # A shard is there with its marker, or not at all.
    for _, files in repository.commits:
        shards = {name.partition(".")[0].partition("/")[0].removesuffix("_stats") for name in below(files, "out")}
        assert all(f"out/{shard}_stats.json" in files for shard in shards - {"run", "__reports"})
    assert "3 of 3 shards done" in stand_in_command("status", OUT, *options, status=1).stdout
    assert "7 images in 3 shards checked, 0 bad" in stand_in_command("verify", OUT, *options).stdout
    refused = stand_in_command("generate", table, OUT, *options, "--overwrite", status=2).stderr
    assert "--overwrite does not work on the Hugging Face hub" in refused


def test_what_reads_and_extends_an_output(hub, tmp_path):
    repository = hub.make("datasets/u/n")
    options = ["--storage-options", hub.options]
    local = write_output(tmp_path / "out", [{"prompt": f"cat {i}"} for i in range(7)], shard_size=3)
    repository.commit(repository.files | {f"out/{name}": data for name, data in files_of(local).items()})

    def commits(*command: object) -> int:
        before = len(repository.commits)
        done = run_here([str(part) for part in (*command, *options)])
        assert done.returncode == 0, done.stderr
        return len(repository.commits) - before

    assert commits("score", OUT, "--scorer", "phash") == 1
    assert commits("gallery", OUT) == 1 and "out/gallery/index.html" in repository.files
    assert commits("gallery", OUT) <= 1
    assert commits("export", OUT, "hf://datasets/u/n/chosen", "--dedup", "phash") == 1
    exported = below(repository.files, "chosen")
    assert commits("export", OUT, "hf://datasets/u/n/chosen", "--dedup", "phash") == 0
    assert commits("export", OUT, tmp_path / "chosen", "--dedup", "phash") == 0
    assert exported == files_of(tmp_path / "chosen")
    repository.commit(repository.files | {"out/00001/000010000.png": b"no picture"})
    before = len(repository.commits)
    assert run_here(["verify", OUT, "--repair", *options]).returncode == 1
    assert len(repository.commits) == before + 1
    assert "out/00001_stats.json" not in repository.files


def test_an_export_of_large_files_in_few_commits(hub, tmp_path):
    """Through the requests for large files, in a process that does without Xet, which the stand-in does not have."""
    repository = hub.make("datasets/u/n")
    hub.large = (".tar",)
    out = write_output(tmp_path / "out", [{"prompt": f"cat {i}"} for i in range(7)], shard_size=2)
    command = ["export", str(out), "hf://datasets/u/n", "--for", "webdataset"]
    environment = {"HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    refused = subprocess.run(
        [sys.executable, "-m", "sdbatch", *command], env=os.environ | environment, capture_output=True, text=True
    )
    assert refused.returncode == 2 and "holds files that no export" in refused.stderr
    command[2] += "/tars"
    done = subprocess.run(
        [sys.executable, "-m", "sdbatch", *command], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(repository.commits) == 2 and hub.requests["lfs"] == 1
    run_here([*command[:2], str(tmp_path / "tars"), *command[3:]])
    assert below(repository.files, "tars") == files_of(tmp_path / "tars")


def test_only_one_of_several_creates_a_file(hub):
    repository = hub.make("datasets/u/n")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: store_on(hub).create("run.json", b"%d" % i), range(4)))
    assert sorted(made) == [False, False, False, True]
    assert repository.files["out/run.json"] == b"%d" % made.index(True)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: store_on(hub).create(f"{i}.json", b"mine"), range(4)))


def test_nothing_old_is_seen(hub):
    hub.make("datasets/u/n", {"out/a.txt": b"long before"})
    first, second = store_on(hub), store_on(hub)
    assert first.entries() == {"a.txt": 11} and first.exists("a.txt") and not first.exists("b.txt")
    second.write("b.txt", b"new")
    second.write("a.txt", b"short")
    assert first.entries() == {"a.txt": 5, "b.txt": 3} and first.exists("b.txt")
    assert first.read("a.txt") == b"short" and first.head("a.txt", 2) == b"sh"
    with first.open("a.txt") as file:
        assert file.read() == b"short"
    second.remove_many(["a.txt", "never.txt"])
    assert first.entries() == {"b.txt": 3} and first.read_if_there("a.txt") is None
    assert [file.path for file in store_on(hub, "hf://datasets/u/n/out/*.txt").files()] == [
        "hf://datasets/u/n/out/b.txt"
    ]


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [("hf://datasets/u/none/out", TOKEN, "has no such repository"), (OUT, "other", "access denied")],
)
def test_where_nothing_can_be_written(hub, table, stand_in_command: Command, url, token, words):
    hub.make("datasets/u/n")
    options = ["--storage-options", hub.options.replace(TOKEN, token)]
    said = stand_in_command("generate", table, url, *options, status=2).stderr
    assert words in said and len(said.strip().splitlines()) == 1


def test_the_plan_warns_of_the_limits(hub, tmp_path):
    hub.make("datasets/u/n")
    table = write_table(tmp_path / "p.parquet", {"prompt": ["a cat"] * 130})
    command = ["plan", str(table), OUT, "--shard-size", "1", "--storage-options", hub.options]
    assert "130 shards are 130 commits" in run_here(command).stdout
    (notice,) = hub_notices(store_on(hub), 100, 130_000, "files")
    assert "recommends at most 100,000" in notice and not hub_notices(store_on(hub), 100, 130_000, "parquet")
