"""Checks the types of a table's columns against the kinds of their settings, without reading a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.bounds import Number, Whole
from sdbatch.fields import Field
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Seed, Several, Text
from sdbatch.prompts.types import is_text
from sdbatch.weighted_files import WeightedFiles

__all__ = ["accepts", "is_list", "one_of_list"]


def accepts(field: Field, kind: pa.DataType) -> str | None:
    """The expected content of the setting's column, in words, if it cannot be of the type `kind`; None if it can.

    Values of any kind may be text, in CSV and in any other format.
    """
    plain = kind.value_type if pt.is_dictionary(kind) else kind
    holds_text = pt.is_null(plain) or is_text(plain) or pt.is_string_view(plain)
    if isinstance(field.kind, Several | Pictures):
        return _accepts_several(field, plain)
    wanted, fits = _WANTED[type(field.kind)]
    if isinstance(field.kind, Text) and field.kind.pairs:
        wanted, fits = field.types, _is_pair
    if isinstance(field.kind, Text) and field.kind.codes:
        wanted, fits = field.types, pt.is_integer
    if holds_text or fits(plain):
        return None
    return wanted


def _accepts_several(field: Field, kind: pa.DataType) -> str | None:
    one = replace(field, kind=one_of_list(field.kind))
    wanted = accepts(one, kind.value_type if is_list(kind) else kind)
    return wanted and f"{wanted}, or lists of them"


def _is_number(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)


def one_of_list(kind: Any) -> Any:
    """The kind of a list's values."""
    return Picture() if isinstance(kind, Pictures) else kind.of


def _is_pair(kind: pa.DataType) -> bool:
    return is_list(kind) and pt.is_integer(kind.value_type)


def _is_picture(kind: pa.DataType) -> bool:
    if pt.is_struct(kind):
        return {"bytes", "path"} >= {field.name for field in kind}
    return pt.is_binary(kind) or pt.is_large_binary(kind)


def _is_weighted(kind: pa.DataType) -> bool:
    if pt.is_list(kind) or pt.is_large_list(kind):
        kind = kind.value_type
        return is_text(kind) or _is_weighted(kind)
    return pt.is_struct(kind) and {"path", "weight", "te_weight"} >= {field.name for field in kind}


def _is_never(kind: pa.DataType) -> bool:
    return False


# The expected content of a column by the kind of its setting, in words; and its allowed types besides text and null.
_WANTED: dict[type, tuple[str, Callable[[pa.DataType], bool]]] = {
    Text: ("text", _is_never),
    Choice: ("text", _is_never),
    Flag: ("true or false", pt.is_boolean),
    Seed: ("whole numbers", _is_number),
    Whole: ("whole numbers", _is_number),
    Number: ("numbers", _is_number),
    WeightedFiles: ("files with weights: text, or lists of texts or of structs of path and weight", _is_weighted),
    Picture: ("pictures: a path or URL, bytes, or a struct of bytes and path", _is_picture),
}
