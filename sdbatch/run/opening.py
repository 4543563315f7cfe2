"""Prepares OUT for a run: the last step before its first shard, when an engine is known to work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sdbatch.engine_settings import EngineSettings
from sdbatch.gallery.ownership import remove_gallery
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_files import (
    OWN_NAMES,
    REPORT_NAME,
    REPORTS,
    append_inputs,
    create_manifest,
    load_manifest,
    manifest_id,
    mark_replaced,
    replace_manifest,
    replacing,
    settle_engine,
)
from sdbatch.output.removal import remove_shards
from sdbatch.plan.planning import Plan
from sdbatch.run.faults.findings import made_with
from sdbatch.storage.claims import Claim, Claims, Lost
from sdbatch.storage.store import Store

__all__ = ["Overtaken", "open_out"]

KEPT = ("run.json", "replaced.json")


class Overtaken(Exception):
    """Another run has changed OUT since this one was planned: plan again."""


def open_out(
    plan: Plan,
    engine: EngineSettings | None,
    worker: Mapping[str, Any] | None = None,
    claims: Claims | None = None,
) -> RunRecord:
    """Write the files that OUT must hold before its first shard, and remove the replaced output.

    Args:
        engine: this run's engine settings; None if it needs no engine.
        worker: the description of the first worker's engine.
        claims: on OUT; the same ones on every retry.

    Returns the record as stored in OUT. Can be repeated, also after an interruption.

    Raises:
        Overtaken: another run was faster.
        Busy: another run is removing the old output; try again soon.
        StorageError: the store cannot be read or written.
    """
    store, record = plan.out, plan.record
    settled = record
    if record.engine is None and engine is not None:
        settled = dataclasses.replace(record, engine=engine, **made_with(worker or {"versions": record.versions}))
    if plan.replaced is None and plan.known:
        _extend(plan, settled)
    elif plan.replaced is None and not create_manifest(store, settled):
        raise Overtaken
    if plan.replaced is not None or replacing(store, settled):
        _replace(plan, settled, claims or Claims(store))
    return settled


def _replace(plan: Plan, settled: RunRecord, claims: Claims) -> None:
    """Remove the old output. The new manifest, written first, lists it, so that the removal can be resumed."""
    store = plan.out
    try:
        with claims.taken(lambda: manifest_id(store) == settled.id and replacing(store, settled)) as claim:
            if plan.replaced is not None:
                if manifest_id(store) != plan.replaced.id:
                    raise Overtaken
                replace_manifest(store, settled)
            if replacing(store, settled):
                _remove_replaced(store, settled, claim)
                claim.check()
                mark_replaced(store, settled)
    except Lost:
        raise Overtaken from None


def _extend(plan: Plan, settled: RunRecord) -> None:
    store, record = plan.out, plan.record
    if manifest_id(store) != record.id:
        raise Overtaken
    if len(record.inputs) > record.recorded and not append_inputs(store, record):
        raise Overtaken
    if settled.engine and record.engine is None and not settle_engine(store, settled):
        raise Overtaken
    now = load_manifest(store)
    if now is None or now.id != record.id or len(now.inputs) != len(record.inputs):
        raise Overtaken


def _remove_replaced(store: Store, record: RunRecord, claim: Claim) -> None:
    for footprint in record.replaces:
        remove_shards(store, footprint, claim.check)
    names = [name for name in store.entries() if OWN_NAMES.fullmatch(name) and name not in KEPT]
    reports = [f"{REPORTS}/{name}" for name in store.entries(REPORTS) if REPORT_NAME.fullmatch(name)]
    claim.check()
    store.remove_many([*names, *reports])
    store.remove_folder(REPORTS)
    remove_gallery(store)
