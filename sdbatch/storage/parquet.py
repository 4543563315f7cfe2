"""Parquet files: opened with Arrow's exceptions mapped to one clear line, written with reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.errors import SdbatchError
from sdbatch.storage.store import Store

__all__ = ["dictionary_bytes", "opened_parquet", "parquet_bytes", "write_parquet"]

MAGIC = b"PAR1"
PAGE_BYTES = 1 << 20
ROWS_BETWEEN_PAGE_CHECKS = 16
SMALL_CHUNK = 1 << 20
PAGE_HEADER_BYTES = 64


@contextmanager
def opened_parquet(
    store: Store, name: str, damage: type[SdbatchError], piece: int = 0, content: bytes | None = None
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading.

    Args:
        damage: the error to raise if the file is not Parquet, truncated or damaged, also for reads in the `with`.
        piece: bytes to buffer per column while a row group is decoded; 0 reads a column's chunk as a whole.
        content: the file's content, if it has been read already.

    Raises:
        StorageError: the store failed.
    """
    with store.open(name) if content is None else pa.BufferReader(content) as file:
        try:
            # Arrow reads local files itself, without the GIL.
            source = store.name(name) if store.is_local and content is None else file
            yield pq.ParquetFile(source, buffer_size=piece, pre_buffer=False)
        except SdbatchError:
            raise
        except (pa.ArrowException, EOFError, UnicodeDecodeError) as exc:
            raise damage(f"{store.name(name)}: {_defect(store, name, exc)}") from exc
        except OSError as exc:
            if exc.errno is None:  # Arrow's own errors: invalid Thrift, truncated pages
                raise damage(f"{store.name(name)}: {_defect(store, name, exc)}") from exc
            with store.mapped("read", name):
                raise


def dictionary_bytes(store: Store, name: str, chunk: pq.ColumnChunkMetaData) -> int:
    """An upper bound of the decompressed size of a text column chunk's dictionary; 0 if it has none."""
    if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page:
        return 0
    if chunk.total_uncompressed_size <= SMALL_CHUNK:  # small enough, no need to read the page header
        return chunk.total_uncompressed_size
    with store.open(name, block_size=PAGE_HEADER_BYTES) as file:
        file.seek(max(0, chunk.dictionary_page_offset))
        return _uncompressed_page_size(file.read(PAGE_HEADER_BYTES))


def _uncompressed_page_size(header: bytes) -> int:
    """The second field of a page header, in Thrift's compact protocol; Arrow checks the page against it."""
    numbers, at = [], 0
    for _ in range(2):
        at += 1  # the field's header
        number, shift = 0, 0
        while True:
            if at >= len(header):
                raise pa.ArrowInvalid("truncated page header")
            number |= (header[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if header[at - 1] < 0x80:
                break
        numbers.append(number >> 1)  # zigzag encoding of a non-negative number
    return numbers[1]


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file with one row group."""
    file = io.BytesIO()
    write_parquet(file, table.schema, [table])
    return file.getvalue()


def write_parquet(
    file: BinaryIO, schema: pa.Schema, groups: Iterable[pa.Table], pictures: Collection[str] = ("image",)
) -> None:
    """Write each table as a row group. The bytes depend only on the arguments.

    Args:
        pictures: columns that hold image files, in structs of bytes and path. For these files, compression,
            dictionaries and statistics would only cost time.
    """
    leaves = _leaves(schema)
    files = [path for path in leaves if path.partition(".")[0] in pictures and path.endswith(".bytes")]
    others = [path for path in leaves if path not in files]
    writer = pq.ParquetWriter(
        file,
        schema,
        compression=dict.fromkeys(others, "zstd") | dict.fromkeys(files, "none"),
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
    return f"is truncated or damaged ({str(exc).strip().splitlines()[0].rstrip('.')})"


def _leaves(schema: pa.Schema) -> list[str]:
    file = io.BytesIO()
    pq.ParquetWriter(file, schema).close()
    leaves = pq.ParquetFile(file).schema
    return [leaves.column(i).path for i in range(len(leaves))]
