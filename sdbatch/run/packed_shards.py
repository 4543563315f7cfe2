"""Shards on their way through Ray Data: one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from sdbatch.prompts import Piece
from sdbatch.prompts.shards import Shard

__all__ = ["pack", "unpack"]


def pack(shard: Shard, pieces: Sequence[Piece], table: pa.Table) -> pa.Table:
    """A shard as one row of a Ray Data block: its position, and its rows as Arrow IPC in one cell."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return pa.table(
        {
            "shard": [shard.number],
            "first_row": [shard.first_row],
            "rows": [shard.rows],
            "pieces": pa.array([list(chain.from_iterable(pieces))], pa.list_(pa.int64())),
            "table": pa.array([sink.getvalue().to_pybytes()], pa.large_binary()),
        }
    )


def unpack(batch: Mapping[str, np.ndarray]) -> tuple[Shard, list[Piece], pa.Table]:
    """The inverse of `pack`, from a Ray Data batch of one row."""
    shard = Shard(*(int(batch[name][0]) for name in ("shard", "first_row", "rows")))
    pieces = [Piece(*numbers) for numbers in batch["pieces"][0].reshape(-1, len(Piece._fields)).tolist()]
    return shard, pieces, pa.ipc.open_stream(batch["table"][0]).read_all()
