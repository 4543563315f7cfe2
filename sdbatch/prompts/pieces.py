"""Locations of rows in the table's files: a shard may have rows of several files."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Piece"]


class Piece(NamedTuple):
    """Rows [first_row, first_row + rows) of input file number `file`."""

    file: int
    first_row: int
    rows: int
