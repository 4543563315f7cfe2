"""A worker: holds an engine, makes shards and writes them."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.errors import RunError, SdbatchError, in_one_line
from sdbatch.output import DamagedMarker, ShardStats, ShardWriter, marker_name, read_marker
from sdbatch.output.json_rows import python_rows
from sdbatch.output.manifest_files import manifest_id
from sdbatch.prompts import Piece, PromptRow, mended_texts, parse, read_table
from sdbatch.prompts.picture_cells import PicturesAhead
from sdbatch.prompts.row_readers import row_readers
from sdbatch.prompts.shards import Shard
from sdbatch.run.engine_loop import EngineLoop
from sdbatch.run.faults.gate import Gate
from sdbatch.run.faults.shard_attempts import ALONE_AFTER, GIVE_UP_AFTER
from sdbatch.run.faults.watchdog import StallGuard
from sdbatch.run.job import Job, described, judged
from sdbatch.run.metrics import WorkerMetrics
from sdbatch.run.packed_shards import unpack
from sdbatch.scoring.expressions import named_columns
from sdbatch.scoring.judged_engine import with_carried

__all__ = ["Worker"]

REPORT_SECONDS = 0.5
OPENING_POLL_SECONDS = 0.1


class Worker:
    """Makes shards, one per call; two calls run at a time. `starting.ShardWorker` creates it in an actor.

    Raises:
        SdbatchError: its engine cannot be made, and could not be on any other node.
        OtherPackages: this node lacks packages that the run's rows need.
    """

    def __init__(self, job: Job, coordinator: Any) -> None:
        context = ray.get_runtime_context()
        self._job = job
        self._coordinator = coordinator
        self._name = context.get_actor_id()
        self._node = context.get_node_id()
        self._gate = Gate()
        self._guard = StallGuard(job.settings.stall_timeout)
        self._counters: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._shards: set[int] = set()
        self._kept_by = named_columns(job.settings.keep)
        self._run: str | None = None
        self._is_open = False
        self._metrics = WorkerMetrics(self._node)
        self._engine = judged(job.make_engine(job), job)
        self._loop = EngineLoop(self._engine, self._guard.progress)
        self._started = time.monotonic()
        self._described = described(self._engine)

    def register(self) -> None:
        """Tell the coordinator that this worker has started, and report to it from now on.

        Raises:
            RunError: its device may not make pictures of this run.
        """
        same_device = self._job.settings.same_device
        refusal = self._coordinator.register.remote(self._name, self._described, same_device)
        if same_device and (reason := ray.get(refusal)):
            raise RunError(reason)
        threading.Thread(target=self._report_forever, name="report", daemon=True).start()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        shard, pieces, table = unpack(batch)
        try:
            self._wait_until_open()
            stats = self._finished(shard)
            if stats is not None:
                # By another run into OUT at the same time, unless a worker of this run was lost after the marker.
                is_made = ray.get(self._coordinator.has_started.remote(shard.number))
            else:
                is_made = True
                with self._guard.working():
                    stats = self._make(shard, pieces, table)
        except SdbatchError as exc:
            # Ray passes on only the text of a task's error, so the reason is reported here.
            ray.get(self._coordinator.broke.remote(str(exc)))
            raise
        except Exception as exc:
            self._end(exc)
        return {"shard": [shard.number], "stats": [stats.to_json()], "is_made": [is_made]}

    def _end(self, exc: Exception) -> NoReturn:
        """Report the error and end this process, whose device may be unusable; Ray starts another.

        The cause may be this node or one of these shards, so the whole run must not end.
        """
        ray.get(self._coordinator.engine_failed.remote(self._node, sorted(self._shards), in_one_line(exc)))
        os._exit(1)

    def _finished(self, shard: Shard) -> ShardStats | None:
        """The content of the shard's marker, if another worker, or this one before a restart, has finished it."""
        if not self._job.out.exists(marker_name(shard.number)):
            return None
        try:
            stats = read_marker(self._job.out, shard.number)
        except DamagedMarker:
            return None
        return stats if stats.run == self._run else None

    def _wait_until_open(self) -> None:
        """Wait until the driver has prepared OUT, which it does when a worker has an engine."""
        if self._is_open:
            return
        while (opened := ray.get(self._coordinator.opened.remote())) is None:
            time.sleep(OPENING_POLL_SECONDS)
        (self._run,) = opened
        self._check_owner()
        self._is_open = True

    def _check_owner(self) -> None:
        """Refuse to write beside another run's shards. Raises `RunError`."""
        if manifest_id(self._job.out) != self._run:
            raise RunError(f"{self._job.out.url} was replaced by another run (--overwrite) during this one")

    def _make(self, shard: Shard, pieces: Sequence[Piece], table: pa.Table) -> ShardStats:
        deaths, fault = ray.get(self._coordinator.deaths.remote(shard.number))
        with self._gate.passing(alone=deaths >= ALONE_AFTER):
            ray.get(self._coordinator.begin.remote(shard.number, self._node))
            self._shards.add(shard.number)
            started = time.monotonic()
            table = self._with_pictures(table, pieces)
            rows = parse(table, self._job.columns, self._job.settings, pieces)
            writer = ShardWriter(
                self._job.out,
                shard.number,
                table,
                rows,
                self._job.columns,
                self._job.settings,
                self._job.model,
                self._run,
            )
            lost = None
            if deaths >= GIVE_UP_AFTER:
                lost = f"its shard ended the worker process {deaths} times" + (f": {fault}" if fault else "")
            self._fill(writer, self._with_carried(rows, table), pieces, lost)
            self._check_owner()
            stats = writer.finish(time.monotonic() - started, self._notes(deaths, table))
            self._coordinator.end.remote(shard.number, self._node, lost is not None)
            self._shards.discard(shard.number)
            with self._lock:
                self._counters["shards"] += 1
            self._report()
            return stats

    def _with_pictures(self, table: pa.Table, pieces: Sequence[Piece]) -> pa.Table:
        """A shard's rows with the columns that hold pictures, which are read here and not sent through Ray."""
        columns = self._job.columns
        if not columns.held:
            return table
        files = {piece.file: self._job.files[piece.file] for piece in pieces}
        (held,) = read_table(files, columns.only_held(), [pieces], self._job.settings.storage_options)
        for name in columns.held:
            table = table.append_column(held.schema.field(name), held.column(name))
        return table.select([*columns.needed, *columns.sources])

    def _with_carried(self, rows: Sequence[PromptRow], table: pa.Table) -> Sequence[PromptRow]:
        """The rows, whose requests know the carried columns that `--keep` names."""
        carried = {name: column for column, name in self._job.columns.carried.items() if name in self._kept_by}
        if not carried:
            return rows
        cells = table.select(list(carried.values())).rename_columns(list(carried))
        return [
            replace(row, requests=tuple(with_carried(request, values) for request in row.requests))
            for row, values in zip(rows, python_rows(cells), strict=True)
        ]

    def _notes(self, deaths: int, table: pa.Table) -> dict[str, Any]:
        """Special events of a shard: workers lost, halvings of lanes (which change rounding), and
        carried texts that were not UTF-8.
        """
        now = described(self._engine)
        if now.get("checks") != self._described.get("checks"):
            self._described = now
            self._coordinator.described.remote(now)
        notes = {"deaths": deaths, "out_of_memory": now.get("out_of_memory")}
        notes["mended_texts"] = mended_texts(table)
        return {name: value for name, value in notes.items() if value}

    def _fill(self, writer: ShardWriter, rows: Sequence[PromptRow], pieces: Sequence[Piece], lost: str | None) -> None:
        """Pass the writer an outcome for every image of every row: made by the engine, or failed with a reason."""
        images = [(request, row.error or lost) for row in rows for request in row.requests]
        runnable = [index for index, (_, error) in enumerate(images) if error is None]

        def deliver(position: int, image: GeneratedImage) -> None:
            self._add(writer, runnable[position], image)

        for index, (request, error) in enumerate(images):
            if error is not None:
                self._add(writer, index, GeneratedImage(request, index, None, error))
        self._loop.run(self._readable([images[index][0] for index in runnable], runnable, pieces), deliver)

    def _readable(self, requests: list[Request], runnable: Sequence[int], pieces: Sequence[Piece]) -> Sequence[Request]:
        """The requests; those with pictures or LoRAs read them while others are made."""
        job = self._job
        readers = row_readers(job.columns, job.settings, job.networks)
        if not readers:
            return requests
        files = [piece.file for piece in pieces for _ in range(piece.rows)]
        folders = [job.folders[files[index // job.settings.images_per_prompt]] for index in runnable]
        return PicturesAhead(list(zip(requests, folders, strict=True)), readers)

    def _add(self, writer: ShardWriter, index: int, image: GeneratedImage) -> None:
        writer.add(index, image)
        with self._lock:
            self._counters["images" if image.error is None else "failed"] += 1
        if image.error is not None:
            self._metrics.failed(image.error)
        self._guard.progress()

    def _report_forever(self) -> None:
        """Report until the run ends, and with it this process: Ray keeps it while anything, such as the traceback of
        an error in a notebook, refers to it, and with it a device.
        """
        while True:
            time.sleep(REPORT_SECONDS)
            try:
                ray.get(self._report())
            except ActorDiedError:
                os._exit(1)
            except ActorUnavailableError:
                pass  # a fault of the network; the next report may arrive

    def _report(self) -> ray.ObjectRef[None]:
        with self._lock:
            counters = dict(self._counters)
        counters |= self._loop.counters | self._engine.counters | {"seconds": time.monotonic() - self._started}
        self._metrics.publish(counters)
        return self._coordinator.report.remote(self._name, counters)
