"""Outputs as sdbatch writes them, made by hand: small, in every layout, with prompts of the test's choice."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from sdbatch.output.stats import ShardStats
from sdbatch.record import RunRecord
from sdbatch.storage import Store

__all__ = ["png", "write_output"]

MODEL_HASH = "0123456789abcdef" * 4


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
    out.mkdir(parents=True, exist_ok=True)
    settings = {"layout": layout, "image_format": "png"}
    RunRecord(settings, {"name": model, "hash": MODEL_HASH}, {}, [], shard_size).save(Store(str(out)))
    for start in range(0, len(rows), shard_size):
        shard = f"{start // shard_size:05}"
        metadata, images = _shard(shard, rows[start : start + shard_size], start)
        if layout == "files":
            _write_files(out, shard, metadata, images)
        elif layout == "webdataset":
            _write_tar(out / f"{shard}.tar", metadata, images)
        else:
            for row in metadata:
                image = images.get(row["key"])
                row["image"] = image and {"bytes": image, "path": f"{row['key']}.png"}
        pq.write_table(pa.Table.from_pylist(metadata), out / f"{shard}.parquet")
        failed = sum(row["status"] == "failed" for row in metadata)
        stats = ShardStats(int(shard), len(metadata), len(metadata), len(metadata) - failed, failed)
        (out / f"{shard}_stats.json").write_bytes(stats.to_json())
    return out


def _shard(shard: str, rows: list[dict[str, Any]], start: int) -> tuple[list[dict], dict[str, bytes]]:
    metadata, images = [], {}
    for index, row in enumerate(rows):
        size = (row.get("width") or 64, row.get("height") or 64)
        # Forty pictures are enough for ten thousand rows, and quickly made.
        image = None if row.get("error") else png((start + index) % 40, size)
        full = {
            "key": f"{shard}{index:04}",
            "negative_prompt": "",
            "seed": 1000 + start + index,
            "sampler": "ddim",
            "steps": 20,
            "guidance_scale": 7.5,
            "height": 64,
            "width": 64,
            "model": "tiny",
            "status": "ok" if image else "failed",
            "error": None,
            "sha256": image and hashlib.sha256(image).hexdigest(),
            "prompt_tokens": len((row["prompt"] or "").split()) + 2,
            "prompt_truncated": False,
        } | row
        # The input's own columns come first, as in a real output.
        metadata.append({name: full[name] for name in (*row, *(name for name in full if name not in row))})
        if image:
            images[full["key"]] = image
    return metadata, images


def _write_files(out: Path, shard: str, metadata: list[dict], images: dict[str, bytes]) -> None:
    (out / shard).mkdir()
    for key, image in images.items():
        (out / shard / f"{key}.png").write_bytes(image)
    for row in metadata:
        row["file_name"] = f"{shard}/{row['key']}.png" if row["key"] in images else None


def _write_tar(path: Path, metadata: list[dict], images: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for row in metadata:
            if row["key"] in images:
                parts = {
                    "png": images[row["key"]],
                    "txt": row["prompt"].encode(),
                    "json": json.dumps(row).encode(),
                }
                for kind, content in parts.items():
                    member = tarfile.TarInfo(f"{row['key']}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
