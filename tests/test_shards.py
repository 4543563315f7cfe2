"""Cutting files into shards, as policy: property tests, without Ray and without files."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sdbatch.shards import cut, default_shard_size, group_reads, select, shard_rows


@dataclass(frozen=True)
class File:
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


FILES = st.lists(st.builds(File, st.lists(st.integers(0, 50), max_size=6).map(tuple)), max_size=5)
ROWS_A_SHARD = st.integers(1, 40)


@given(FILES, ROWS_A_SHARD)
def test_shards_cover_every_row_once_and_in_order(files, rows_a_shard):
    shards = list(cut(files, rows_a_shard))
    assert [s.number for s in shards] == list(range(len(shards)))
    covered = [(s.file, row) for s in shards for row in range(s.first_row, s.first_row + s.rows)]
    assert covered == [(f, row) for f, file in enumerate(files) for row in range(file.rows)]
    assert all(0 < s.rows <= rows_a_shard for s in shards)


@given(FILES, ROWS_A_SHARD, st.data())
def test_parts_make_up_the_whole_whatever_is_finished(files, rows_a_shard, data):
    shards = list(cut(files, rows_a_shard))
    parts = data.draw(st.integers(1, 4))
    finished = data.draw(st.sets(st.integers(0, max(0, len(shards) - 1))))
    chosen = [s for i in range(parts) for s in select(shards, finished, (i + 1, parts))]
    assert sorted(s.number for s in chosen) == sorted({s.number for s in shards} - finished)


@given(FILES, ROWS_A_SHARD)
def test_read_groups_keep_files_apart_and_all_shards_in_order(files, rows_a_shard):
    shards = list(cut(files, rows_a_shard))
    groups = group_reads(files, shards)
    assert [s for group in groups for s in group.shards] == shards
    assert all({s.file for s in group.shards} == {group.file} for group in groups)


def test_shards_of_one_row_group_are_read_together():
    files = [File((100_000,)), File((10, 10))]
    groups = group_reads(files, list(cut(files, 10)))
    assert [len(group.shards) for group in groups] == [10_000, 2]


@given(st.integers(0, 10**10), st.sampled_from([(64, 64), (512, 512), (1024, 1024), (4096, 4096)]))
def test_the_default_shard_size_keeps_its_bounds(images, size):
    chosen = default_shard_size(images, *size)
    assert 1 <= chosen <= 10_000
    assert chosen == 1 or chosen * size[0] * size[1] * 3 <= 512 << 20
    assert shard_rows(chosen, 10**4) == 1
