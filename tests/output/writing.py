"""Outputs made by the real writer, with noise in place of a model's pictures."""

from __future__ import annotations

import random

import numpy as np

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.output import ModelLabel, ShardStats, ShardWriter
from sdbatch.output.manifest import RunRecord, new_record
from sdbatch.output.manifest_files import create_manifest, load_manifest
from sdbatch.prompts import InputFile, Piece, check_table, list_inputs, parse, read_rows
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store

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
    out: str, prompts: str, shard_rows: int = 4, order: random.Random | None = None, sources=(), **options: object
) -> list[ShardStats]:
    """All shards of `prompts` in `out`; `order` shuffles the order in which images are finished."""
    settings = RunSettings.from_options(options)
    storage_options = dict(settings.storage_options)
    files = list_inputs(prompts, storage_options)
    columns = check_table(files, settings, sources=sources)
    record = begin(Store(out, storage_options), settings, files, shard_rows)
    stats: list[ShardStats] = []
    for number, file in enumerate(files):
        ranges = [(first, min(shard_rows, file.rows - first)) for first in range(0, file.rows, shard_rows)]
        tables = read_rows(file, columns, ranges, storage_options)
        for (first, _), table in zip(ranges, tables, strict=True):
            rows = parse(table, columns, settings, [Piece(number, first, table.num_rows)])
            writer = ShardWriter(
                Store(out, storage_options), len(stats), table, rows, columns, settings, MODEL, record.id
            )
            requests = [request for row in rows for request in row.requests]
            errors = [row.error for row in rows for _ in row.requests]
            wanted = list(range(len(requests)))
            if order:
                order.shuffle(wanted)
            for index in wanted:
                error = errors[index]
                image = (
                    GeneratedImage(requests[index], index, None, error) if error else generate(requests[index], index)
                )
                writer.add(index, image)
            stats.append(writer.finish(1.5, {"attempt": 1}))
    return stats


def begin(store: Store, settings: RunSettings, files: list[InputFile], shard_rows: int) -> RunRecord:
    """The output's manifest: the one that is there, or a new one."""
    if (record := load_manifest(store)) is None:
        model = {"name": MODEL.name, "hash": MODEL.hash}
        record = new_record(settings, model, files, check_table(files, settings), shard_rows)
        assert create_manifest(store, record)
    return record
