"""Opening a Parquet file of the prompt table, with what Arrow raises mapped to one clear line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.errors import InputError, SdbatchError
from sdbatch.storage import Store

__all__ = ["opened_parquet"]

MAGIC = b"PAR1"


@contextmanager
def opened_parquet(
    path: str, options: Mapping[str, Any] | None, piece: int = 0, columns: list[str] | None = None
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading.

    Args:
        path: absolute path or URL.
        options: storage options.
        piece: bytes to hold of each column while a row group is decoded; 0 reads a column's chunk whole.
        columns: columns of strings to leave dictionary-encoded where the file has them so.

    Raises:
        InputError: not Parquet, cut short, or damaged; also while it is read inside the `with`.
        StorageError: the store refuses.
    """
    store = Store(path, options)
    reader = {"buffer_size": piece, "pre_buffer": False, "read_dictionary": columns}
    with store.open("") as file:
        try:
            # Arrow reads local files itself, without Python's lock.
            yield pq.ParquetFile(path if store.is_local else file, **reader)
        except SdbatchError:
            raise
        except (pa.ArrowException, EOFError, UnicodeDecodeError) as exc:
            raise InputError(f"{store.url}: {_defect(store, exc)}") from exc
        except OSError as exc:
            if exc.errno is None:  # Arrow's own: thrift that does not parse, a page that ends too soon
                raise InputError(f"{store.url}: {_defect(store, exc)}") from exc
            with store.mapped("read", ""):
                raise


def _defect(store: Store, exc: Exception) -> str:
    with store.open("") as file:
        head = file.read(len(MAGIC))
    if not head:
        return "is empty (0 bytes)"
    if head != MAGIC:
        return "is not a Parquet file"
    return f"is cut short or damaged ({str(exc).strip().splitlines()[0].rstrip('.')})"
