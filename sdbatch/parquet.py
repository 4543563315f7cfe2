"""Parquet files: opened with what Arrow raises mapped to one clear line, and written byte for byte alike."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.errors import SdbatchError
from sdbatch.storage import Store

__all__ = ["opened_parquet", "parquet_bytes", "write_parquet"]

MAGIC = b"PAR1"
PAGE_BYTES = 1 << 20
ROWS_BETWEEN_PAGE_CHECKS = 16
IMAGE_BYTES = "image.bytes"


@contextmanager
def opened_parquet(store: Store, name: str, damage: type[SdbatchError], piece: int = 0) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading.

    Args:
        damage: raised where the file is not Parquet, cut short, or damaged, also by reads in the `with`.
        piece: bytes to hold of each column while a row group is decoded; 0 reads a column's chunk whole.

    Raises:
        StorageError: the store refuses.
    """
    with store.open(name) as file:
        try:
            # Arrow reads local files itself, without Python's lock.
            source = store.name(name) if store.is_local else file
            yield pq.ParquetFile(source, buffer_size=piece, pre_buffer=False)
        except SdbatchError:
            raise
        except (pa.ArrowException, EOFError, UnicodeDecodeError) as exc:
            raise damage(f"{store.name(name)}: {_defect(store, name, exc)}") from exc
        except OSError as exc:
            if exc.errno is None:  # Arrow's own: thrift that does not parse, a page that ends too soon
                raise damage(f"{store.name(name)}: {_defect(store, name, exc)}") from exc
            with store.mapped("read", name):
                raise


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file with one row group."""
    file = io.BytesIO()
    write_parquet(file, table.schema, [table])
    return file.getvalue()


def write_parquet(file: BinaryIO, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes each table as a row group. The bytes follow from the tables alone."""
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


def _defect(store: Store, name: str, exc: Exception) -> str:
    with store.open(name) as file:
        head = file.read(len(MAGIC))
    if not head:
        return "is empty (0 bytes)"
    if head != MAGIC:
        return "is not a Parquet file"
    return f"is cut short or damaged ({str(exc).strip().splitlines()[0].rstrip('.')})"


def _leaves(schema: pa.Schema) -> list[str]:
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    leaves = pq.ParquetFile(file).schema
    return [leaves.column(i).path for i in range(len(leaves))]
