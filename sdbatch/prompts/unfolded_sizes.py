"""How large values of Arrow's view types are once each has its own copy: they may lie on top of each other in memory.

A small file can so describe any amount of data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

__all__ = ["pieces_of"]

MAX_PIECE_BYTES = 256 << 20
MAX_VALUE_BYTES = 1 << 30


def pieces_of(columns: Sequence[pa.Array], names: Sequence[str], rows: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of pieces that hold 256 MB each at most, or one row.

    Raises:
        pa.ArrowInvalid: a value holds more than 1 GB; the message names its column.
    """
    sizes = np.zeros(rows)
    for column, name in zip(columns, names, strict=True):
        if _has_views(column.type):
            own = _unfolded(column)
            if own.max(initial=0) > MAX_VALUE_BYTES:
                raise pa.ArrowInvalid(f"holds a value of more than {MAX_VALUE_BYTES >> 30} GB in column {name!r}")
            sizes += own
    ends = np.cumsum(sizes)
    first = 0
    while True:
        before = ends[first - 1] if first else 0.0
        end = max(first + 1, int(np.searchsorted(ends, before + MAX_PIECE_BYTES, side="right")))
        yield first, min(end, rows) - first
        first = end
        if first >= rows:
            return


def _has_views(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_views(kind.storage_type)
    if pt.is_string_view(kind) or pt.is_binary_view(kind) or pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return True
    return any(_has_views(kind.field(i).type) for i in range(kind.num_fields))


def _unfolded(array: pa.Array) -> np.ndarray:
    """The bytes of each value, (n,) float64, which does not overflow. A null may count as what lies below it."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _unfolded(array.storage)
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1] or b"", np.int32, count=4 * (array.offset + len(array)))
        return views[4 * array.offset :: 4].clip(0).astype(float)
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        offsets = np.asarray(array.offsets)
        return _between(_unfolded(array.values), offsets, offsets + np.asarray(array.sizes))
    if pt.is_list(kind) or pt.is_large_list(kind):
        return _between(_unfolded(array.values), *_starts_and_ends(array))
    if pt.is_map(kind):
        return _between(_unfolded(array.keys) + _unfolded(array.items), *_starts_and_ends(array))
    if pt.is_fixed_size_list(kind):
        starts = (array.offset + np.arange(len(array))) * kind.list_size
        return _between(_unfolded(array.values), starts, starts + kind.list_size)
    if pt.is_struct(kind):
        return sum((_unfolded(array.field(i)) for i in range(kind.num_fields)), np.zeros(len(array)))
    return np.full(len(array), 1.0 + array.nbytes / max(1, len(array)))


def _starts_and_ends(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.asarray(array.offsets)
    return offsets[:-1], offsets[1:]


def _between(sizes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sums of `sizes` from each start to each end, which a file may set to anything."""
    sums = np.concatenate([[0.0], np.cumsum(sizes)])
    last = len(sizes)
    return np.maximum(sums[ends.clip(0, last)] - sums[starts.clip(0, last)], 0)
