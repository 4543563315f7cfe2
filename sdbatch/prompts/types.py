"""Converts columns to types that all readers of the output support, from types that Arrow's kernels or pandas lack."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

__all__ = ["as_plain", "is_text", "plain_schema"]


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with the same values in plain types, at every depth."""
    return pa.schema([field.with_type(_plain_type(field.type, False)) for field in schema], schema.metadata)


def as_plain(
    batch: pa.RecordBatch, schema: pa.Schema, carried: Container[str]
) -> tuple[pa.RecordBatch, np.ndarray | None]:
    """Convert the batch to `schema`, the `plain_schema` of its own.

    Returns the batch, and the number of repaired texts in each row (see `_readable`); None if there are none.
    """
    columns, mended = [], None
    for column, field in zip(batch.columns, schema, strict=True):
        if field.name not in carried:  # a setting that is not UTF-8 must fail its row
            columns.append(column if column.type == field.type else column.cast(field.type, safe=False))
        elif column.type == field.type and _is_valid(column):
            columns.append(column)
        else:
            plain, here = _plain_array(column, field.type)
            columns.append(plain)
            mended = _sum(mended, here)
    return pa.RecordBatch.from_arrays(columns, schema=schema), mended


def _plain_field(field: pa.Field, in_list: bool) -> pa.Field:
    if pt.is_null(field.type):  # Arrow extracts invalid arrays of these types from lists
        return field.with_type(pa.string())
    return field.with_type(_plain_type(field.type, in_list))


def _plain_type(kind: pa.DataType, in_list: bool) -> pa.DataType:
    # Arrow can't take, filter or slice view types; pandas can't read the others in lists.
    if pt.is_string_view(kind):
        return pa.string()
    if pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain_type(kind.value_type, in_list), kind.ordered)
    if pt.is_struct(kind):
        return pa.struct([_plain_field(field, False) for field in kind])
    if pt.is_map(kind):
        return pa.map_(_plain_field(kind.key_field, False), _plain_field(kind.item_field, False), kind.keys_sorted)
    if pt.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field, True), kind.list_size)
    if pt.is_list(kind) or pt.is_list_view(kind):
        return pa.list_(_plain_field(kind.value_field, True))
    if pt.is_large_list(kind) or pt.is_large_list_view(kind):
        return pa.large_list(_plain_field(kind.value_field, True))
    return _plain_in_list(kind) if in_list else kind


def _plain_in_list(kind: pa.DataType) -> pa.DataType:
    if pt.is_fixed_size_binary(kind) or getattr(kind, "extension_name", "") == "arrow.uuid":
        return pa.binary()
    if pt.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def _plain_array(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    """The array in a plain type, and the number of repaired texts in each value; None if there are none."""
    if is_text(array.type):
        return _readable(array, kind)
    if isinstance(array.type, pa.BaseExtensionType) and is_text(array.type.storage_type):
        texts, mended = _readable(array.storage, array.type.storage_type)
        return pa.ExtensionArray.from_storage(array.type, texts), mended
    if pt.is_dictionary(array.type):
        texts, mended = _plain_array(array.dictionary, kind.value_type)
        plain = pa.DictionaryArray.from_arrays(array.indices, texts, ordered=kind.ordered)
        return plain, None if mended is None else _looked_up(mended, array.indices)
    # Part by part, because Arrow's own cast of list views creates invalid arrays.
    if pt.is_struct(kind):
        parts = [_plain_array(array.field(i), field.type) for i, field in enumerate(kind)]
        plain = pa.StructArray.from_arrays([part for part, _ in parts], fields=list(kind), mask=array.is_null())
        return plain, _sum(*(mended for _, mended in parts))
    if pt.is_fixed_size_list(kind):
        size = kind.list_size
        values, mended = _plain_array(array.values.slice(array.offset * size, len(array) * size), kind.value_type)
        plain = pa.FixedSizeListArray.from_arrays(values, type=kind, mask=array.is_null())
        return plain, None if mended is None else mended.reshape(len(array), size).sum(axis=1)
    if pt.is_list(kind) or pt.is_large_list(kind):
        build = pa.ListArray if pt.is_list(kind) else pa.LargeListArray
        values, mended = _plain_array(array.flatten(), kind.value_type)
        offsets = _offsets(array, kind)
        plain = build.from_arrays(offsets, values, type=kind, mask=array.is_null())
        return plain, _within(mended, offsets.to_numpy())
    if pt.is_map(kind):
        offsets = array.offsets.to_numpy()
        first, count = offsets[0], offsets[-1] - offsets[0]
        keys, in_keys = _plain_array(array.keys.slice(first, count), kind.key_type)
        items, in_items = _plain_array(array.items.slice(first, count), kind.item_type)
        plain = pa.MapArray.from_arrays(pa.array(offsets - first), keys, items, type=kind, mask=array.is_null())
        return plain, _within(_sum(in_keys, in_items), offsets - first)
    return array.cast(kind), None


def _sum(*counts: np.ndarray | None) -> np.ndarray | None:
    found = [count for count in counts if count is not None]
    return sum(found[1:], found[0]) if found else None


def _within(counts: np.ndarray | None, offsets: np.ndarray) -> np.ndarray | None:
    """The sum of the counts of each list's values."""
    return None if counts is None else np.diff(np.concatenate([[0], np.cumsum(counts)])[offsets])


def _looked_up(counts: np.ndarray, indices: pa.Array) -> np.ndarray:
    places = pc.fill_null(indices, 0).to_numpy(zero_copy_only=False)
    return np.where(indices.is_null().to_numpy(zero_copy_only=False), 0, counts[places])


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a plain type are text."""
    return pt.is_string(kind) or pt.is_large_string(kind)


def _is_valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _readable(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    """The texts, with U+FFFD for bytes that are not UTF-8: Arrow would write these, but no reader opens such a file."""
    found = array.cast(pa.large_binary()).to_pylist()
    texts = [text if text is None else text.decode(errors="replace") for text in found]
    mended = np.array(
        [text is not None and text.encode() != before for text, before in zip(texts, found, strict=True)], int
    )
    return pa.array(texts, kind), mended if mended.any() else None


def _offsets(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The offset of each list in the flattened values, and the end of the last one."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    width = pa.int64() if pt.is_large_list(kind) else pa.int32()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), width)
