"""Assigns rows to lanes: the policy of continuous batching. Has no tensors.

The denoiser runs at one fixed batch shape for each picture size: a *lane set*. A row with guidance takes two of
its lanes, conditional and unconditional, any other row one. The lanes of a finished row, and the unconditional
lane of a row whose guidance has stopped, are reassigned at once; with DeepCache, at the next pass that computes
deep features, because all rows of a set compute them in the same passes. Decisions here never change a picture,
only when it is made.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

__all__ = ["LaneSet", "Lanes", "Row", "halved", "lanes_at"]

Shape = tuple[int, int]
Place = tuple[Shape, Hashable]

# Maximum of rows in lanes or waiting, counted from the oldest unfinished one, as a multiple of the lanes. It
# limits how far a row of a rare size is overtaken, and gives every size enough rows to fill its lanes.
WINDOW = 32
# Small pictures get more lanes, but a large set must not run nearly empty for a few rows.
MAX_GROWTH = 4


def halved(lanes: int) -> int:
    """Half as many lanes, even and at least 2."""
    return max(2, lanes // 4 * 2)


def lanes_at(shape: Shape, lanes: int, base: Shape, min_lanes: int = 2) -> int:
    """Lanes of a set at a latent height and width: even, at least `min_lanes`; `lanes` at the shape `base`."""
    area = base[0] * base[1] / (shape[0] * shape[1])
    return max(min_lanes, int(lanes * min(area, MAX_GROWTH)) // 2 * 2)


@dataclass(eq=False, kw_only=True)
class Row:
    """A request in the lanes or waiting for them.

    Attributes:
        index: position in the order of submission.
        shape: latent height and width.
        key: what else rows must share to run in one pass.
        calls: number of its calls of the model.
        paired_calls: number of first calls in which it also has an unconditional lane.
        branches: lanes in these calls: 2, or 3 with two kinds of guidance.
        call: number of finished calls.
        lane, partner: its conditional and unconditional lane while it samples; the same lane if it has only one.
        third: its third lane; its partner if it has only two.
    """

    index: int
    shape: Shape
    calls: int
    paired_calls: int
    key: Hashable = ()
    branches: int = 2
    call: int = 0
    lane: int = -1
    partner: int = -1
    third: int = -1

    @property
    def place(self) -> Place:
        """The key of its lane set."""
        return self.shape, self.key

    @property
    def width(self) -> int:
        """Number of lanes that it takes when it is admitted."""
        return self.branches if self.paired_calls else 1

    @property
    def lanes(self) -> set[int]:
        """Its current lanes."""
        return {self.lane, self.partner, self.third}


class LaneSet:
    """The lanes of rows of one latent shape that may share a pass.

    Attributes:
        place: the shape, and the key that its rows share.
        passes_since_deep: passes since the one that computed deep features; 0 if the next one computes them.
    """

    def __init__(self, place: Place, size: int):
        self.place = place
        self.shape = place[0]
        self.size = size
        self.rows: list[Row] = []
        self.passes_since_deep = 0
        self._free = list(range(size))

    @property
    def free(self) -> int:
        return len(self._free)

    def admit(self, row: Row) -> None:
        row.lane = row.partner = row.third = heapq.heappop(self._free)
        if row.width > 1:
            row.partner = row.third = heapq.heappop(self._free)
        if row.width > 2:
            row.third = heapq.heappop(self._free)
        row.call = 0
        self.rows.append(row)

    def narrow(self, row: Row) -> None:
        """Free the lanes of a row except the conditional one."""
        for lane in row.lanes - {row.lane}:
            heapq.heappush(self._free, lane)
        row.partner = row.third = row.lane

    def retire(self, row: Row) -> None:
        self.rows.remove(row)
        if not self.rows:
            self.passes_since_deep = 0
        for lane in row.lanes:
            heapq.heappush(self._free, lane)


class _Queue:
    """Waiting rows of one set in order of submission, by number of lanes."""

    def __init__(self) -> None:
        self._rows: dict[int, deque[Row]] = {1: deque(), 2: deque(), 3: deque()}

    @property
    def lanes(self) -> int:
        """Number of lanes that all waiting rows would take."""
        return sum(width * len(rows) for width, rows in self._rows.items())

    def push(self, row: Row) -> None:
        self._rows[row.width].append(row)

    def pop_oldest(self, free: int, may_enter: Callable[[Row], bool]) -> Row | None:
        """Remove and return the oldest row that fits into `lanes` lanes and may enter."""
        fitting = (rows for width, rows in self._rows.items() if width <= free)
        return self._pop(heapq.merge(*fitting, key=lambda row: row.index), may_enter)

    def pop_longest(self, free: int, may_enter: Callable[[Row], bool]) -> Row | None:
        """Remove and return the row with most calls that fits into `lanes` lanes and may enter; on a tie the oldest."""
        fitting = [row for width, rows in self._rows.items() if width <= free for row in rows]
        return self._pop(sorted(fitting, key=lambda row: (-row.calls, row.index)), may_enter)

    def _pop(self, rows: Iterable[Row], may_enter: Callable[[Row], bool]) -> Row | None:
        row = next(filter(may_enter, rows), None)
        if row is not None:
            self._rows[row.width].remove(row)
        return row

    def oldest(self) -> list[Row]:
        """The oldest row of each number of lanes."""
        return [rows[0] for rows in self._rows.values() if rows]

    def __iter__(self) -> Iterator[Row]:
        return heapq.merge(*self._rows.values(), key=lambda row: row.index)


class Lanes:
    """All lane sets and the rows that wait for them.

    Args:
        lanes: lanes of a set at the base shape; even.
        base: latent height and width of the base shape; for others the number of lanes is scaled by area.
        deep_interval: deep features are computed on every N-th call of a row, starting with the first.
        min_lanes: minimum of lanes of a set, even if `lanes` is less: even, and enough for its widest row.
    """

    def __init__(self, lanes: int, base: Shape, deep_interval: int = 1, min_lanes: int = 2):
        self.lanes = lanes
        self.base = base
        self.deep_interval = deep_interval
        self.min_lanes = min_lanes
        self._sets: dict[Place, LaneSet] = {}
        self._queues: dict[Place, _Queue] = {}
        self._current: LaneSet | None = None
        self._unfinished: dict[int, Row] = {}
        self._newest = -1

    @property
    def room(self) -> int:
        """The number of further rows worth submitting now."""
        oldest = next(iter(self._unfinished), self._newest + 1)
        return max(0, WINDOW * self.lanes - (self._newest + 1 - oldest))

    @property
    def idle(self) -> bool:
        return not self._unfinished

    @property
    def used(self) -> int:
        """Number of lanes in use in all sets."""
        return sum(lane_set.size - lane_set.free for lane_set in list(self._sets.values()))

    @property
    def rows_waiting(self) -> int:
        return len(self._unfinished) - sum(len(lane_set.rows) for lane_set in list(self._sets.values()))

    @property
    def submitted(self) -> int:
        """Number of requests up to the newest row."""
        return self._newest + 1

    def size(self, shape: Shape) -> int:
        """Number of lanes of a set of this shape: even, and a function only of the settings."""
        return lanes_at(shape, self.lanes, self.base, self.min_lanes)

    def submit(self, row: Row) -> None:
        self._newest = row.index
        self._unfinished[row.index] = row
        self._queue(row.place).push(row)

    def select(self) -> LaneSet | None:
        """The set to run next: the fullest one; on a tie the current one, then the one of the oldest row."""
        sets = [self._set(place) for place, queue in self._queues.items() if queue.lanes]
        sets += [lane_set for lane_set in self._sets.values() if lane_set.rows and lane_set not in sets]
        self._current = max(sets, key=self._preference, default=None)
        return self._current

    def admit(self, lane_set: LaneSet, may_enter: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        """Fill the free lanes of a set with waiting rows; returns the admitted rows.

        `may_enter` is called for one row at a time; a row for which it returns true is admitted. It must admit a row
        to an empty set.

        Oldest first, so that a shard's rows finish together; but longest first once the window is no longer full,
        which means that the work is ending: a long row that starts last would run alone.
        """
        admitted: list[Row] = []
        if lane_set.passes_since_deep:
            return admitted
        queue = self._queue(lane_set.place)
        pop = queue.pop_longest if self.room else queue.pop_oldest
        while row := pop(lane_set.free, may_enter):
            lane_set.admit(row)
            admitted.append(row)
        return admitted

    def waiting(self, lane_set: LaneSet) -> list[Row]:
        """Rows waiting for lanes of this set, oldest first."""
        return list(self._queue(lane_set.place))

    def waiting_elsewhere(self, lane_set: LaneSet) -> Iterable[Row]:
        """Rows waiting for lanes of other sets, oldest first."""
        others = (queue for place, queue in self._queues.items() if place != lane_set.place)
        return heapq.merge(*others, key=lambda row: row.index)

    def advance(self, lane_set: LaneSet) -> list[Row]:
        """Count one call for every row of the set; returns the rows whose unconditional lane is now free."""
        lane_set.passes_since_deep = (lane_set.passes_since_deep + 1) % self.deep_interval
        for row in lane_set.rows:
            row.call += 1
        narrowed = [row for row in lane_set.rows if row.partner != row.lane and row.call == row.paired_calls]
        for row in narrowed:
            lane_set.narrow(row)
        return narrowed

    def finished(self, lane_set: LaneSet) -> list[Row]:
        """Rows of the set that have finished all calls."""
        return [row for row in lane_set.rows if row.call == row.calls]

    def retire(self, lane_set: LaneSet, row: Row) -> None:
        """Remove a row from its lanes."""
        lane_set.retire(row)
        del self._unfinished[row.index]

    def rebuild(self, lanes: int) -> None:
        """Restart with another number of lanes: rows that were sampling wait again, in their old order."""
        self.lanes = lanes
        self._sets.clear()
        self._queues.clear()
        self._current = None
        for row in self._unfinished.values():
            self._queue(row.place).push(row)

    def clear(self) -> None:
        """Forget all rows."""
        self._unfinished.clear()
        self.rebuild(self.lanes)

    def release(self, lane_set: LaneSet) -> bool:
        """Forget a set without rows, including waiting ones; returns whether it was forgotten."""
        if lane_set.rows or self._queue(lane_set.place).lanes:
            return False
        del self._sets[lane_set.place], self._queues[lane_set.place]
        return True

    def _preference(self, lane_set: LaneSet) -> tuple[float, bool, int]:
        waiting = self._queue(lane_set.place)
        fill = min(1.0, (lane_set.size - lane_set.free + waiting.lanes) / lane_set.size)
        oldest = min((row.index for row in (*lane_set.rows, *waiting.oldest())), default=0)
        return fill, lane_set is self._current, -oldest

    def _set(self, place: Place) -> LaneSet:
        if place not in self._sets:
            self._sets[place] = LaneSet(place, self.size(place[0]))
        return self._sets[place]

    def _queue(self, place: Place) -> _Queue:
        return self._queues.setdefault(place, _Queue())
