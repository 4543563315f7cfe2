"""Outputs made by the real writer, with noise in place of a model's pictures."""

from __future__ import annotations

import random

import numpy as np

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.output import ModelLabel, ShardStats, ShardWriter
from sdbatch.prompts import InputFile, check_table, list_inputs, parse, read_rows
from sdbatch.record import RunRecord, picture_settings
from sdbatch.settings import RunSettings
from sdbatch.storage import Store

MODEL = ModelLabel("tiny", "0123abcd", 32, 32)


def noise(request: Request) -> np.ndarray:
    """A picture that follows from the request's seed."""
    shape = (request.height or MODEL.height, request.width or MODEL.width, 3)
    return np.random.default_rng(request.seed).integers(0, 256, shape, dtype=np.uint8)


def generate(request: Request, index: int) -> GeneratedImage:
    if request.sampler == "no such sampler":
        return GeneratedImage(request, index, None, "sampler 'no such sampler' is unknown")
    return GeneratedImage(request, index, noise(request), None, len(request.prompt.split()) + 2, False)


def write_output(
    out: str, prompts: str, shard_rows: int = 4, order: random.Random | None = None, **options: object
) -> list[ShardStats]:
    """All shards of `prompts` in `out`; `order` shuffles the order in which images are finished."""
    settings = RunSettings.from_options(options)
    storage_options = dict(settings.storage_options)
    files = list_inputs(prompts, storage_options)
    columns = check_table(files, settings)
    stats: list[ShardStats] = []
    for number, file in enumerate(files):
        ranges = [(first, min(shard_rows, file.rows - first)) for first in range(0, file.rows, shard_rows)]
        tables = read_rows(file, columns, ranges, storage_options)
        for (first, _), table in zip(ranges, tables, strict=True):
            rows = parse(table, columns, settings, number, first)
            writer = ShardWriter(Store(out, storage_options), len(stats), table, rows, columns, settings, MODEL)
            requests = [request for row in rows for request in row.requests]
            failed = [row.error is not None for row in rows for _ in row.requests]
            wanted = [index for index in range(len(requests)) if not failed[index]]
            if order:
                order.shuffle(wanted)
            for index in wanted:
                writer.add(index, generate(requests[index], index))
            stats.append(writer.finish(1.5, {"attempt": 1}))
    write_run(Store(out, storage_options), settings, files, shard_rows)
    return stats


def write_run(store: Store, settings: RunSettings, files: list[InputFile], shard_rows: int) -> None:
    """run.json, as far as readers of an output need it."""
    record = RunRecord(
        settings=picture_settings(settings),
        model={"name": MODEL.name, "hash": MODEL.hash},
        engine={},
        inputs=[{"path": file.path, "rows": file.rows} for file in files],
        shard_rows=shard_rows,
    )
    record.save(store)
