"""Cutting input files into shards, the unit of work, of commit and of resume.

A shard's number, its rows and therefore every byte in it follow from the input and the shard size alone:
never from how many actors there are, what is finished already or which part of the shards a job makes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate

from sdbatch.prompts import InputFile
from sdbatch.settings import MAX_IMAGES_A_SHARD

__all__ = ["ReadGroup", "Shard", "cut", "default_shard_size", "group_reads", "select", "shard_rows"]

SHARDS_AIMED_AT = 64
SMALLEST_SHARD = 16
LARGEST_SHARD = 512
SHARDS_AT_MOST = 100_000
BYTES_A_SHARD = 512 << 20
SHARDS_A_READ = 256


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows [first_row, first_row + rows) of input file number `file`, made and committed as one."""

    number: int
    file: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """Shards of one file that one read task yields, so that a row group is decoded once for all of them."""

    file: int
    shards: tuple[Shard, ...]


def default_shard_size(images: int, height: int, width: int) -> int:
    """Images a shard when nobody says: a power of two, from the size of the job and of a picture alone.

    Small jobs get about 64 shards, so that a pool has something to share; large ones at most 512 images a
    shard (minutes of work, the most that a lost worker costs) until there would be over 100,000 shards, whose
    price in the driver then counts more; a shard's raw pixels stay below 512 MB throughout.
    """
    wanted = min(max(images // SHARDS_AIMED_AT, SMALLEST_SHARD), LARGEST_SHARD)
    wanted = max(wanted, min(images // SHARDS_AT_MOST, MAX_IMAGES_A_SHARD))
    wanted = max(1, min(wanted, BYTES_A_SHARD // (3 * height * width)))
    return 1 << (wanted.bit_length() - 1)


def shard_rows(shard_size: int, images_per_prompt: int) -> int:
    """Rows of the prompt table in one shard of `shard_size` images; at least 1."""
    return max(1, shard_size // images_per_prompt)


def cut(files: Sequence[InputFile], rows_a_shard: int) -> Iterator[Shard]:
    """All shards of `files`, numbered in order. A shard never spans files."""
    number = 0
    for file_number, file in enumerate(files):
        for first_row in range(0, file.rows, rows_a_shard):
            yield Shard(number, file_number, first_row, min(rows_a_shard, file.rows - first_row))
            number += 1


def select(shards: Iterable[Shard], finished: AbstractSet[int], part: tuple[int, int]) -> list[Shard]:
    """The shards of part (I, N) that have no marker yet."""
    index, parts = part
    return [s for s in shards if s.number % parts == index - 1 and s.number not in finished]


def group_reads(files: Sequence[InputFile], shards: Sequence[Shard]) -> list[ReadGroup]:
    """Group shards into read tasks such that no two tasks decode the same row group, wherever that is possible.

    Shards that begin in the same row group stay together; small row groups are put together up to
    `SHARDS_A_READ` shards.
    """
    ends = [list(accumulate(file.row_groups)) for file in files]
    groups: list[list[Shard]] = []
    last_place: tuple[int, int] | None = None
    for shard in shards:
        place = (shard.file, bisect_right(ends[shard.file], shard.first_row))
        same_file = last_place is not None and last_place[0] == shard.file
        if not same_file or (len(groups[-1]) >= SHARDS_A_READ and place != last_place):
            groups.append([])
        groups[-1].append(shard)
        last_place = place
    return [ReadGroup(group[0].file, tuple(group)) for group in groups]
