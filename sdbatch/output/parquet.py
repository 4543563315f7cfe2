"""Writing Parquet so that its bytes follow from the table alone, and so that pictures make no huge pages."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["parquet_bytes", "write_parquet"]

PAGE_BYTES = 1 << 20
ROWS_BETWEEN_PAGE_CHECKS = 16
IMAGE_BYTES = "image.bytes"


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file with one row group."""
    file = io.BytesIO()
    write_parquet(file, table.schema, [table])
    return file.getvalue()


def write_parquet(file: BinaryIO, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes each table as a row group."""
    # Image files do not compress, repeat or sort: zstd, dictionaries and statistics would only cost.
    others = [path for path in _leaves(schema) if path != IMAGE_BYTES]
    writer = pq.ParquetWriter(
        file,
        schema,
        compression=dict.fromkeys(others, "zstd") | {IMAGE_BYTES: "none"},
        use_dictionary=others,
        write_statistics=others,
        data_page_size=PAGE_BYTES,
        write_batch_size=ROWS_BETWEEN_PAGE_CHECKS,
    )
    with writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))


def _leaves(schema: pa.Schema) -> list[str]:
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    leaves = pq.ParquetFile(file).schema
    return [leaves.column(i).path for i in range(len(leaves))]
