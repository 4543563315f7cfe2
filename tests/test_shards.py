"""Cutting the table into shards, as policy: property tests, without Ray and without files."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.prompts import shards as shards_module
from sdbatch.prompts.shards import Cut, Selection, default_shard_size, group_reads, shard_rows


@dataclass(frozen=True)
class File:
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


FILES = st.lists(st.builds(File, st.lists(st.integers(0, 50), max_size=6).map(tuple)), max_size=5)
ROWS_PER_SHARD = st.integers(1, 40)
STARTS = st.sets(st.integers(0, 5))


def cut_of(files, rows_per_shard, starts=()):
    return Cut(rows_per_shard, tuple(file.rows for file in files), tuple(sorted(s for s in starts if s < len(files))))


def places(pieces):
    return [(file, row) for file, first, count in pieces for row in range(first, first + count)]


@given(FILES, ROWS_PER_SHARD, STARTS)
def test_shards_cover_every_row_once_and_in_order(files, rows_per_shard, starts):
    cut = cut_of(files, rows_per_shard, starts)
    shards = list(cut)
    assert [s.number for s in shards] == list(range(len(cut)))
    covered = [place for s in shards for place in places(cut.pieces(s.first_row, s.rows))]
    assert covered == [(f, row) for f, file in enumerate(files) for row in range(file.rows)]
    assert all(0 < s.rows <= rows_per_shard for s in shards)
    assert all(piece.rows > 0 for s in shards for piece in cut.pieces(s.first_row, s.rows))


@given(FILES, ROWS_PER_SHARD)
def test_a_shard_spans_files_but_for_where_a_start_is(files, rows_per_shard):
    rows = sum(file.rows for file in files)
    assert len(cut_of(files, rows_per_shard)) == -(-rows // rows_per_shard)
    apart = cut_of(files, rows_per_shard, range(len(files)))
    assert len(apart) == sum(-(-file.rows // rows_per_shard) for file in files)
    assert all(len(apart.pieces(s.first_row, s.rows)) == 1 for s in apart)


@given(FILES, ROWS_PER_SHARD, STARTS, st.data())
def test_parts_make_up_the_whole_whatever_is_finished(files, rows_per_shard, starts, data):
    cut = cut_of(files, rows_per_shard, starts)
    parts = data.draw(st.integers(1, 4))
    finished = data.draw(st.sets(st.integers(0, len(cut) + 3)))  # markers of shards that there are not, too
    chosen = [Selection(cut, finished, (i + 1, parts)) for i in range(parts)]
    numbers = [s.number for selection in chosen for s in selection]
    assert sorted(numbers) == sorted(set(range(len(cut))) - finished)
    for i, selection in enumerate(chosen):
        assert len(selection) == len(list(selection))
        assert selection.rows == sum(s.rows for s in selection)
        assert [n for n in range(len(cut)) if n in selection] == [s.number for s in selection]
        assert selection.finished == [n for n in range(i, len(cut), parts) if n in finished]


@given(FILES, ROWS_PER_SHARD, STARTS, st.integers(1, 6), st.integers(1, 6))
def test_read_groups_hold_all_shards_in_order_and_never_many_more_than_they_should(files, rows, starts, most, spread):
    cut = cut_of(files, rows, starts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "SHARDS_PER_READ", most)
        patch.setattr(shards_module, "FILES_PER_READ", spread)
        groups = list(group_reads(files, cut, cut))
    assert [s for group in groups for s in group.shards] == list(cut)
    ends = [list(itertools.accumulate(file.row_groups)) for file in files]
    begins = {}
    for number, group in enumerate(groups):
        assert list(group.pieces) == [cut.pieces(s.first_row, s.rows) for s in group.shards]
        for (file, first, _), *_ in group.pieces:
            row_group = file, next(i for i, end in enumerate(ends[file]) if first < end)
            assert begins.setdefault(row_group, number) == number  # decoded for one task only
        beyond = [pieces[0] for pieces in group.pieces[most:]]
        assert len({(p.file, next(i for i, e in enumerate(ends[p.file]) if p.first_row < e)) for p in beyond}) <= 1


def test_shards_of_one_row_group_are_read_together():
    files = [File((100_000,)), File((10, 10))]
    cut = cut_of(files, 10)
    assert [len(group.shards) for group in group_reads(files, cut, cut)] == [10_000, 2]


def test_many_small_files_are_few_read_tasks():
    files = [File((1,))] * 100_000
    cut = cut_of(files, 512)
    groups = list(group_reads(files, cut, cut))
    assert len(cut) == 196
    assert len(groups) == 25
    assert max(sum(map(len, group.pieces)) for group in groups) == 4096


@given(st.integers(0, 10**10), st.sampled_from([(64, 64), (512, 512), (1024, 1024), (4096, 4096)]))
def test_the_default_shard_size_keeps_its_bounds(images, size):
    chosen = default_shard_size(images, *size)
    assert 1 <= chosen <= 10_000
    assert chosen == 1 or chosen * size[0] * size[1] * 3 <= 512 << 20
    assert shard_rows(chosen, 10**4) == 1


@given(FILES, ROWS_PER_SHARD, STARTS)
def test_a_file_that_comes_later_changes_nothing_before_its_start(files, rows_per_shard, starts):
    spans = [(s.first_row, s.rows) for s in cut_of(files, rows_per_shard, starts)]
    for start in (s for s in starts if s < len(files)):
        before = cut_of(files[:start], rows_per_shard, starts)
        assert spans[: len(before)] == [(s.first_row, s.rows) for s in before]


def test_a_huge_table_costs_nothing():
    cut = Cut(64, (10**15, 10**15), starts=(1,))
    assert len(cut) == 2 * 10**15 // 64
    assert cut.span(len(cut) - 1) == (2 * 10**15 - 64, 64)
    assert cut.pieces(2 * 10**15 - 64, 64) == ((1, 10**15 - 64, 64),)
    with pytest.raises(IndexError):
        cut.span(len(cut))
    part = Selection(cut, {5, 8, 10**30}, (3, 3))
    assert part.finished == [5, 8]
    assert part.rows == 64 * len(part) == 64 * (len(cut) // 3 - 2)
    assert [s.number for s in itertools.islice(part, 3)] == [2, 11, 14]
