"""Divides the table into shards, the unit of work, of commit and of resume.

A shard's number, its rows and therefore all its bytes depend only on the input and the shard size: not on the number
of actors, on finished shards, or on the part of the shards that a job runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from sdbatch.prompts import InputFile, Piece
from sdbatch.settings import MAX_IMAGES_PER_SHARD

__all__ = ["Cut", "ReadGroup", "Selection", "Shard", "default_shard_size", "group_reads", "shard_rows"]

SHARDS_AIMED_AT = 64
MIN_SHARD_IMAGES = 16
MAX_SHARD_IMAGES = 512
MAX_SHARDS = 100_000
BYTES_PER_SHARD = 512 << 20
SHARDS_PER_READ = 256
FILES_PER_READ = 4096


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows [first_row, first_row + rows) of the whole table, sampled and committed together."""

    number: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """Shards that one read task yields in order, and the locations of their rows."""

    shards: tuple[Shard, ...]
    pieces: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class Cut:
    """The boundaries of shards, computed by arithmetic alone: 10^15 rows cost no more than ten.

    The rows of the input files, in the order of their numbers, form one sequence. It is cut every `rows_per_shard`
    rows, and before each file in `starts`, so that files added later never change an earlier shard. A `Cut` is a
    collection of its shards, by number.

    Attributes:
        rows_per_shard: rows of the table in a shard; the last one before a start may have fewer.
        file_rows: rows of each input file, by its number.
        starts: numbers of the files at which a new shard begins, ascending; 0 need not be among them.
    """

    rows_per_shard: int
    file_rows: tuple[int, ...]
    starts: tuple[int, ...] = ()

    @cached_property
    def _offsets(self) -> list[int]:
        """The first row of each file in the whole table, and the number of all rows."""
        return [0, *accumulate(self.file_rows)]

    @cached_property
    def _runs(self) -> list[tuple[int, int, int]]:
        """First row, rows, and number of the first shard, for each run of files between starts."""
        edges = sorted({0, len(self.file_rows), *self.starts})
        runs, number = [], 0
        for first, last in pairwise(edges):
            rows = self._offsets[last] - self._offsets[first]
            runs.append((self._offsets[first], rows, number))
            number += -(-rows // self.rows_per_shard)
        return runs

    def __len__(self) -> int:
        if not self._runs:
            return 0
        _, rows, number = self._runs[-1]
        return number + -(-rows // self.rows_per_shard)

    def __getitem__(self, number: int) -> Shard:
        return Shard(number, *self.span(number))

    def __iter__(self) -> Iterator[Shard]:
        return map(self.__getitem__, range(len(self)))

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return self._offsets[-1]

    def span(self, number: int) -> tuple[int, int]:
        """First row in the whole table, and number of rows, of shard `number`. Raises `IndexError`."""
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        at = bisect_right(self._runs, number, key=lambda run: run[2]) - 1
        first, rows, before = self._runs[at]
        skipped = (number - before) * self.rows_per_shard
        return first + skipped, min(self.rows_per_shard, rows - skipped)

    def shortfalls(self) -> Iterator[tuple[int, int]]:
        """The shards that may have fewer rows than the others, and the number of missing rows."""
        for _, rows, number in self._runs:
            shards = -(-rows // self.rows_per_shard)
            if shards:
                yield number + shards - 1, shards * self.rows_per_shard - rows

    def pieces(self, first_row: int, rows: int) -> tuple[Piece, ...]:
        """The locations of `rows` rows of the whole table from `first_row` on."""
        pieces: list[Piece] = []
        file = bisect_right(self._offsets, first_row) - 1
        at, end = first_row, first_row + rows
        while at < end:
            here = min(end, self._offsets[file + 1]) - at
            if here:
                pieces.append(Piece(file, at - self._offsets[file], here))
            at, file = at + here, file + 1
        return tuple(pieces)


class Selection:
    """The unfinished shards of part (I, N) of a cut, in order, generated without a list in memory.

    Args:
        finished: numbers of the shards that have a marker.
        part: I, counted from 1, and N.
    """

    def __init__(self, cut: Cut, finished: AbstractSet[int] = frozenset(), part: tuple[int, int] = (1, 1)) -> None:
        index, parts = part
        self._cut = cut
        self._numbers = range(index - 1, len(cut), parts)
        self.finished = sorted(number for number in finished if number in self._numbers)
        """Numbers of the finished shards of this part."""
        self._finished = frozenset(self.finished)

    def __len__(self) -> int:
        return len(self._numbers) - len(self.finished)

    def __iter__(self) -> Iterator[Shard]:
        return (self._cut[number] for number in self._numbers if number not in self._finished)

    def __contains__(self, number: int) -> bool:
        return number in self._numbers and number not in self._finished

    @property
    def rows(self) -> int:
        """Rows of the table in all these shards."""
        missing = sum(rows for number, rows in self._cut.shortfalls() if number in self)
        return len(self) * self._cut.rows_per_shard - missing


def default_shard_size(images: int, height: int, width: int) -> int:
    """The default number of images per shard: a power of two, from the sizes of the job and of a picture alone.

    Small jobs get about 64 shards, enough for a pool of workers; large ones at most 512 images per shard (minutes of
    work, the most that a lost worker costs), or more if there would be over 100,000 shards, which cost time and
    memory in the driver. A shard's raw pixels stay below 512 MB.
    """
    wanted = min(max(images // SHARDS_AIMED_AT, MIN_SHARD_IMAGES), MAX_SHARD_IMAGES)
    wanted = max(wanted, min(images // MAX_SHARDS, MAX_IMAGES_PER_SHARD))
    wanted = max(1, min(wanted, BYTES_PER_SHARD // (3 * height * width)))
    return 1 << (wanted.bit_length() - 1)


def shard_rows(shard_size: int, images_per_prompt: int) -> int:
    """Rows of the prompt table in one shard of `shard_size` images; at least 1."""
    return max(1, shard_size // images_per_prompt)


def group_reads(files: Sequence[InputFile], cut: Cut, shards: Iterable[Shard]) -> Iterator[ReadGroup]:
    """Group shards into few read tasks, each short enough that little is lost if it fails.

    Shards that begin in the same row group stay together, so that it is decoded once for all of them. Otherwise a
    task has at most `SHARDS_PER_READ` shards, and reads at most `FILES_PER_READ` files unless a single shard needs
    more.
    """
    shards_here: list[Shard] = []
    pieces_here: list[tuple[Piece, ...]] = []
    taken, place, ends_of, ends = 0, (-1, 0), -1, [0]
    for shard in shards:
        pieces = cut.pieces(shard.first_row, shard.rows)
        file, first_row, _ = pieces[0]
        if file != ends_of:
            ends_of, ends = file, list(accumulate(files[file].row_groups))
        before, place = place, (file, bisect_right(ends, first_row))
        full = len(shards_here) >= SHARDS_PER_READ or taken + len(pieces) > FILES_PER_READ
        if shards_here and full and place != before:
            yield ReadGroup(tuple(shards_here), tuple(pieces_here))
            shards_here, pieces_here, taken = [], [], 0
        shards_here.append(shard)
        pieces_here.append(pieces)
        taken += len(pieces)
    if shards_here:
        yield ReadGroup(tuple(shards_here), tuple(pieces_here))
