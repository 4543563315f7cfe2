"""The policy of continuous batching, without a tensor."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from sdbatch.diffusion.lanes import Lanes, Row

ROWS = st.lists(
    st.tuples(st.sampled_from([(8, 8), (8, 16), (4, 4)]), st.integers(0, 9), st.integers(1, 9)),
    max_size=60,
)


def run(lanes: Lanes, rows: list[Row], after_pass=lambda number: None):
    """Drive the policy to the end as the engine does; yields the lane set after each admission."""
    waiting = iter(rows)
    submitted, number = 0, 0
    while True:
        while lanes.room and submitted < len(rows):
            lanes.submit(next(waiting))
            submitted += 1
        lane_set = lanes.select()
        if lane_set is None:
            return
        lanes.admit(lane_set)
        yield lane_set
        lanes.advance(lane_set)
        for row in lanes.finished(lane_set):
            lanes.retire(lane_set, row)
        lanes.release(lane_set)
        number += 1
        after_pass(number)


def make_rows(specification) -> list[Row]:
    """Rows of a shape, a number of calls with an unconditional lane, and a number of all calls."""
    return [Row(index=i, shape=s, calls=c, paired_calls=min(p, c)) for i, (s, p, c) in enumerate(specification)]


@given(ROWS, st.sampled_from([2, 4, 8, 16]), st.integers(1, 4))
def test_every_row_gets_all_its_calls_in_lanes_of_its_own(specification, size, deep_interval):
    rows = make_rows(specification)
    lanes = Lanes(size, (8, 8), deep_interval)
    calls = dict.fromkeys(rows, 0)
    for lane_set in run(lanes, rows):
        taken = [lane for row in lane_set.rows for lane in {row.lane, row.partner}]
        assert lane_set.rows and len(taken) == len(set(taken)) <= lane_set.size
        assert set(taken) <= set(range(lane_set.size))
        for row in lane_set.rows:
            assert row.shape == lane_set.shape and (row.lane != row.partner) == (row.call < row.paired_calls)
            # A pass makes deep features for all its rows or for none, whatever each row's steps.
            assert row.call % deep_interval == lane_set.passes_since_deep
            calls[row] += 1
    assert all(calls[row] == row.calls for row in rows)
    assert lanes.idle


@given(ROWS, st.integers(1, 20))
def test_rebuilding_with_fewer_lanes_loses_no_row(specification, at):
    rows = make_rows(specification)
    lanes = Lanes(8, (8, 8))
    done = []

    def halve(number):
        if number == at:
            lanes.rebuild(4)

    for lane_set in run(lanes, rows, halve):
        assert lane_set.size == lanes.size(lane_set.shape)
        done += [row for row in lane_set.rows if row.call + 1 == row.calls]
    assert lanes.idle and set(done) == set(rows) and len(done) == len(rows)


def test_a_set_is_filled_before_another_is_run():
    lanes = Lanes(8, (8, 8))
    specification = [((8, 16), 3, 3)] + [((8, 8), 3, 3)] * 8
    rows = make_rows(specification)
    order = [lane_set.shape for lane_set in run(lanes, rows)]
    # (8, 16) has 4 lanes and one row of 2; (8, 8) fills its 8 lanes twice over.
    assert order == [(8, 8)] * 6 + [(8, 16)] * 3


def test_a_lane_that_guidance_no_longer_needs_is_the_next_row_s():
    rows = make_rows([((8, 8), 2, 6)] * 8)
    passes = [[row.index for row in lane_set.rows] for lane_set in run(Lanes(4, (8, 8)), rows)]
    # Two rows have two lanes each; after two calls each needs one, and the third comes in.
    assert passes[1:4] == [[0, 1], [0, 1, 2], [0, 1, 2]]
    assert len(passes) < 8 * 2 * 6 / 4


def test_a_rare_size_is_not_overtaken_for_ever():
    rows = make_rows([((8, 16), 0, 2)] + [((8, 8), 0, 1)] * 5000)
    passes = [lane_set.shape for lane_set in run(Lanes(2, (8, 8)), rows)]
    assert passes.index((8, 16)) < 100


def test_lanes_scale_with_area_and_stay_even():
    lanes = Lanes(16, (64, 64))
    sizes = {shape: lanes.size(shape) for shape in [(64, 64), (64, 96), (128, 128), (512, 512), (32, 64), (8, 8)]}
    assert sizes == {(64, 64): 16, (64, 96): 10, (128, 128): 4, (512, 512): 2, (32, 64): 32, (8, 8): 64}


def test_the_policy_needs_no_torch():
    modules = "sdbatch.diffusion.lanes", "sdbatch.diffusion.samplers.catalogue", "sdbatch.diffusion.validation"
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
