"""Parquet files: opened with what Arrow raises mapped to one clear line, and written byte for byte alike."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
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
IMAGE_BYTES = "image.bytes"
SMALL_CHUNK = 1 << 20
PAGE_HEADER_BYTES = 64


@contextmanager
def opened_parquet(
    store: Store, name: str, damage: type[SdbatchError], piece: int = 0, content: bytes | None = None
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading.

    Args:
        damage: raised where the file is not Parquet, cut short, or damaged, also by reads in the `with`.
        piece: bytes to hold of each column while a row group is decoded; 0 reads a column's chunk whole.
        content: of the file, where it has been read already.

    Raises:
        StorageError: the store refuses.
    """
    with store.open(name) if content is None else io.BytesIO(content) as file:
        try:
            # Arrow reads local files itself, without Python's lock.
            source = store.name(name) if store.is_local and content is None else file
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


def dictionary_bytes(store: Store, name: str, chunk: pq.ColumnChunkMetaData) -> int:
    """At most how large the dictionary of a column chunk of texts is, decompressed; 0 if it has none."""
    if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page:
        return 0
    if chunk.total_uncompressed_size <= SMALL_CHUNK:  # no need to look closer
        return chunk.total_uncompressed_size
    with store.open(name, block_size=PAGE_HEADER_BYTES) as file:
        file.seek(max(0, chunk.dictionary_page_offset))
        return _uncompressed_page_size(file.read(PAGE_HEADER_BYTES))


def _uncompressed_page_size(header: bytes) -> int:
    """The second field of a page header, in Thrift's compact protocol; Arrow holds the page to it."""
    numbers, at = [], 0
    for _ in range(2):
        at += 1  # the field's header
        number, shift = 0, 0
        while True:
            if at >= len(header):
                raise pa.ArrowInvalid("page header cut short")
            number |= (header[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if header[at - 1] < 0x80:
                break
        numbers.append(number >> 1)  # zigzag of a number that is not negative
    return numbers[1]


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
    pq.ParquetWriter(file, schema).close()
    leaves = pq.ParquetFile(file).schema
    return [leaves.column(i).path for i in range(len(leaves))]
