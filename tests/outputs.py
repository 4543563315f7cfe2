"""Looking at an OUT folder with tools that are not ours."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq

from tests import tables

__all__ = ["content", "markers", "metadata", "write_table"]


def write_table(path: Path, columns: dict, **options) -> Path:
    """A Parquet file of `columns` (lists or Arrow arrays by name)."""
    return Path(tables.write_table(path, columns, **options))


def content(out: Path) -> dict[str, str]:
    """sha256 of every file of the dataset by relative path; markers and run.json hold timings and are left out."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not p.name.endswith("_stats.json") and p.name != "run.json"
    }


def markers(out: Path) -> dict[str, dict]:
    """The content of each shard's marker by its name."""
    return {p.name: json.loads(p.read_text()) for p in sorted(out.glob("*_stats.json"))}


def metadata(out: Path) -> list[dict]:
    """All metadata rows, shard after shard."""
    return [row for p in sorted(out.glob("*.parquet")) for row in pq.read_table(p).to_pylist()]
