"""Two runs that resume one interrupted overwrite at the same time: one removes, and no new file goes."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from sdbatch.engine_settings import EngineSettings
from sdbatch.output.manifest_files import load_manifest, replace_manifest
from sdbatch.plan.planning import Plan, make_plan
from sdbatch.run.opening import Overtaken, open_out
from sdbatch.settings import RunSettings
from sdbatch.storage import claims
from sdbatch.storage.claims import Busy, Claims
from sdbatch.storage.store import Store
from tests.conftest import stand_in_process
from tests.output.writing import write_output
from tests.tables import write_table

ENGINE = EngineSettings(device="cpu", dtype="fp32", lanes=8, threads=1, compile="off")
FAST = ("--steps", "1", "--sampler", "ddim", "--guidance-scale", "1", "--shard-size", "4", "--actors", "1")
LAYOUT = {"layout": "parquet"}


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> tuple[str, dict]:
    """An OUT's address and the options of its store."""
    if request.param == "local":
        return str(tmp_path / "out"), {}
    return f"{request.getfixturevalue('bucket')}/out", dict(request.getfixturevalue("s3_server").options)


@pytest.fixture
def interrupted(place, tmp_path) -> tuple[str, str, dict]:
    """A table, and an OUT whose overwrite ended right after its new manifest."""
    out, options = place
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 12})
    write_output(out, prompts, storage_options=options, **LAYOUT)
    values = {"steps": 1, "sampler": "ddim", "guidance_scale": 1.0, "shard_size": 4, "storage_options": options}
    plan = make_plan(prompts, out, RunSettings(overwrite=True, **LAYOUT, **values))
    replace_manifest(plan.out, dataclasses.replace(plan.record, engine=ENGINE))
    return prompts, out, values


def plans(interrupted, count: int) -> list[Plan]:
    prompts, out, values = interrupted
    return [make_plan(prompts, out, RunSettings(**LAYOUT, **values)) for _ in range(count)]


def entries(store: Store) -> set[str]:
    """The names in an OUT; some stores continue to list empty folders."""
    return {name for name in store.entries() if name != f"{claims.CLAIMS}/" or store.entries(claims.CLAIMS)}


class Slow:
    """A removal that pauses until it is allowed to continue."""

    def __init__(self, store: Store) -> None:
        self.remove_many, self.reached, self.may_go_on = store.remove_many, threading.Event(), threading.Event()
        store.remove_many = self

    def __call__(self, names) -> None:
        names = list(names)
        if any(name.endswith("_stats.json") for name in names):
            self.reached.set()
            assert self.may_go_on.wait(60)
        self.remove_many(names)


def test_a_second_run_waits_until_the_first_has_removed_everything(interrupted):
    first, second = plans(interrupted, 2)
    slow = Slow(first.out)
    thread = threading.Thread(target=open_out, args=(first, ENGINE))
    thread.start()
    assert slow.reached.wait(60)
    mine = Claims(second.out)
    with pytest.raises(Busy):
        open_out(second, ENGINE, claims=mine)
    assert "00000_stats.json" in second.out.entries()
    slow.may_go_on.set()
    thread.join()
    first.out.write("00000_stats.json", b"new")
    open_out(second, ENGINE, claims=mine)
    assert entries(second.out) == {"run.json", "replaced.json", "00000_stats.json"}


def test_a_run_that_stood_still_for_too_long_removes_nothing_more(interrupted, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 1e9)  # its thread stands still, too
    first, second = plans(interrupted, 2)
    slow, ended = Slow(first.out), []

    def run() -> None:
        try:
            open_out(first, ENGINE)
        except Overtaken as exc:
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert slow.reached.wait(60)
    mine = Claims(second.out)
    with pytest.raises(Busy):
        open_out(second, ENGINE, claims=mine)
    time.sleep(0.6)
    open_out(second, ENGINE, claims=mine)  # takes the first one for dead
    second.out.write("00001.parquet", b"new")
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0)  # as if much time had passed
    slow.may_go_on.set()
    thread.join()
    assert len(ended) == 1
    assert entries(second.out) == {"run.json", "replaced.json", "00001.parquet"}


def test_of_runs_that_follow_a_dead_one_one_does(interrupted, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.1)
    (plan,) = plans(interrupted, 1)
    plan.out.create(f"{claims.CLAIMS}/0001.json", b'{"token": "of the dead"}')
    both = [Claims(plan.out) for _ in range(2)]
    for one in both:
        with pytest.raises(Busy), one.taken(lambda: True):
            pass
    time.sleep(0.2)
    with both[0].taken(lambda: True), pytest.raises(Busy), both[1].taken(lambda: True):
        pass
    assert not plan.out.entries(claims.CLAIMS)


def test_two_overwrites_at_once_leave_one_dataset(interrupted):
    prompts, out, values = interrupted
    both = [make_plan(prompts, out, RunSettings(overwrite=True, **LAYOUT, **values)) for _ in range(2)]
    open_out(both[0], ENGINE)
    both[0].out.write("00000.parquet", b"new")
    with pytest.raises(Overtaken):
        open_out(both[1], ENGINE)
    assert both[0].out.read("00000.parquet") == b"new"
    assert load_manifest(both[0].out).id == both[0].record.id


def test_two_commands_that_resume_an_interrupted_overwrite_make_one_dataset(
    interrupted, tmp_path, ray_session, stand_in_command
):
    prompts, out, values = interrupted
    options = (*FAST, "--layout", "parquet", "--storage-options", json.dumps(values["storage_options"]))
    both = [stand_in_process("generate", prompts, out, *options, address=ray_session) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    stand_in_command("generate", prompts, tmp_path / "fresh", *FAST, "--layout", "parquet", "--lanes", ENGINE.lanes)
    store, fresh = Store(out, values["storage_options"]), Store(str(tmp_path / "fresh"))
    shards = [f"{number:05d}.parquet" for number in range(3)]
    assert [store.read(name) for name in shards] == [fresh.read(name) for name in shards]
    assert not store.entries(claims.CLAIMS)
    stand_in_command("verify", out, "--storage-options", json.dumps(values["storage_options"]))
