"""Prompt tables on disk, for tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_table(path: Path, columns: dict[str, object] | pa.Table, **options: object) -> str:
    """Writes a Parquet file of the given columns, and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return str(path)
