"""Small outputs of artificial rows in every layout, written by sdbatch's own layouts without a model."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw

from sdbatch.diffusion.request import Request
from sdbatch.output import ShardStats, image_key, marker_name
from sdbatch.output.layouts import LAYOUTS
from sdbatch.output.manifest import new_record
from sdbatch.output.manifest_files import create_manifest, load_manifest
from sdbatch.output.metadata import OUTCOME, SETTINGS, Outcome, metadata_schema, metadata_table
from sdbatch.prompts import Columns, InputFile
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store

__all__ = ["png", "write_output"]

MODEL_HASH = "0123456789abcdef" * 4
USUAL = {"negative_prompt": "", "sampler": "ddim", "steps": 20, "guidance_scale": 7.5, "height": 64, "width": 64}


@cache
def png(index: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture that tells its index: its colours follow from it."""
    image = Image.new("RGB", size, (200 - index * 5 % 120, 150 + index * 11 % 100, 225 - index * 17 % 150))
    place = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
    ImageDraw.Draw(image).ellipse(place, fill=(40 + index * 23 % 160, 40 + index * 7 % 90, 120))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_output(
    out: Path,
    rows: list[dict[str, Any]],
    *,
    layout: str = "files",
    shard_size: int = 1000,
    model: str = "tiny",
) -> Path:
    """Write `rows` to `out`. A row needs a `prompt`; one with an `error` has failed; the rest is made up."""
    ours = SETTINGS.keys() | OUTCOME.keys()
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ours))
    own = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    columns = Columns({"prompt": "prompt"}, {name: name for name in names}, own.schema)
    file = InputFile("prompts.parquet", 1, "1", len(rows), (len(rows),), "parquet", own.schema)
    settings = RunSettings(layout=layout)
    record = new_record(settings, {"name": model, "hash": MODEL_HASH}, [file], columns, shard_size)
    store = Store(str(out))
    assert load_manifest(store) is not None or create_manifest(store, record)
    for shard, start in enumerate(range(0, len(rows), shard_size)):
        writer = LAYOUTS[layout](store, shard, ".png")
        outcomes = [_outcome(row, start + index) for index, row in enumerate(rows[start : start + shard_size])]
        keys = [image_key(shard, index) for index in range(len(outcomes))]
        made = {key: outcome.error is None for key, outcome in zip(keys, outcomes, strict=True)}
        for index, (key, outcome) in enumerate(zip(keys, outcomes, strict=True)):
            if made[key]:
                writer.add(key, _picture(start + index, outcome.request))
        table = own.slice(start, len(outcomes)) if names else pa.table({"": pa.nulls(len(outcomes))})
        metadata = metadata_table(table, columns, keys, outcomes, model, writer.columns(made))
        writer.finish(metadata, metadata_schema(columns, layout), {})
        ok = sum(made.values())
        stats = ShardStats(shard, len(made), len(made), ok, len(made) - ok, run=record.id)
        store.write(marker_name(shard), stats.to_json())
    return out


def _outcome(row: dict[str, Any], index: int) -> Outcome:
    given = {name: value for name, value in row.items() if name in SETTINGS}
    request = Request(**{"seed": 1000 + index, **USUAL, **given})
    if error := row.get("error"):
        return Outcome(request, error)
    digest = hashlib.sha256(_picture(index, request)).hexdigest()
    return Outcome(request, None, digest, len(request.prompt.split()) + 2, False)


def _picture(index: int, request: Request) -> bytes:
    # Forty pictures are enough for ten thousand rows, and quickly made.
    return png(index % 40, (request.width, request.height))
