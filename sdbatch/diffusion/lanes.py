"""Assigns rows to lanes: the policy of continuous batching. Has no tensors.

The UNet runs at one fixed batch shape for each picture size: a *lane set*. A row with guidance takes two of
its lanes, conditional and unconditional, any other row one; the lanes of a finished row, and the unconditional
one of a row whose guidance has stopped, are given to the next at once; with DeepCache, at the next pass that
makes deep features, since all rows of a set make them at the same passes. No decision here can change a picture,
only when it is made.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

__all__ = ["LaneSet", "Lanes", "Row", "halved"]

Shape = tuple[int, int]
Place = tuple[Shape, Hashable]

# Rows that may be under way or waiting, from the oldest unfinished one on, as a multiple of the lanes. It
# bounds how far a row of a rare size is overtaken, and gives every size enough rows to fill its lanes.
WINDOW = 32
# A small picture gets more lanes, but a set with many must not run nearly empty for a few rows.
MAX_GROWTH = 4


def halved(lanes: int) -> int:
    """Half as many lanes, even and at least 2."""
    return max(2, lanes // 4 * 2)


@dataclass(eq=False, kw_only=True)
class Row:
    """One request on its way through the lanes.

    Attributes:
        index: place in the order of submission.
        shape: latent height and width.
        key: what else rows must share to run in one pass.
        calls: calls of the model that it needs.
        paired_calls: for how many of them, from the first on, it has an unconditional lane, too.
        branches: lanes that it has meanwhile: 2, or 3 if it is guided in two ways.
        call: how many of them are done.
        lane, partner: its conditional and its unconditional lane while it samples; the same if it has but one.
        third: its third lane, which is its partner if it has but two.
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
        """Which lane set it belongs to."""
        return self.shape, self.key

    @property
    def width(self) -> int:
        """Lanes that it takes when it comes in."""
        return self.branches if self.paired_calls else 1

    @property
    def lanes(self) -> set[int]:
        """Those that it has now."""
        return {self.lane, self.partner, self.third}


class LaneSet:
    """The lanes of rows of one latent shape that may share a pass.

    Attributes:
        place: the shape, and what else its rows share.
        passes_since_deep: passes since the one that made deep features; 0 if the next one makes them.
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
        """Take the lanes of a row back, but for the conditional one."""
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
    """Waiting rows of one set, in order of submission, by the lanes that they take."""

    def __init__(self):
        self._rows: dict[int, deque[Row]] = {1: deque(), 2: deque(), 3: deque()}

    @property
    def lanes(self) -> int:
        """Lanes that all waiting rows would take."""
        return sum(width * len(rows) for width, rows in self._rows.items())

    def push(self, row: Row) -> None:
        self._rows[row.width].append(row)

    def pop_oldest(self, free: int, may_enter: Callable[[Row], bool]) -> Row | None:
        """The oldest row that fits into that many lanes and may enter."""
        fitting = (rows for width, rows in self._rows.items() if width <= free)
        return self._pop(heapq.merge(*fitting, key=lambda row: row.index), may_enter)

    def pop_longest(self, free: int, may_enter: Callable[[Row], bool]) -> Row | None:
        """The row of most calls that fits into that many lanes and may enter, the oldest of these."""
        fitting = [row for width, rows in self._rows.items() if width <= free for row in rows]
        return self._pop(sorted(fitting, key=lambda row: (-row.calls, row.index)), may_enter)

    def _pop(self, rows: Iterable[Row], may_enter: Callable[[Row], bool]) -> Row | None:
        row = next(filter(may_enter, rows), None)
        if row is not None:
            self._rows[row.width].remove(row)
        return row

    def oldest(self) -> list[Row]:
        """The oldest row of each width."""
        return [rows[0] for rows in self._rows.values() if rows]

    def __iter__(self):
        return heapq.merge(*self._rows.values(), key=lambda row: row.index)


class Lanes:
    """All lane sets and the rows that wait for them.

    Args:
        lanes: lanes of a set at the base shape; even.
        base: latent height and width at which a set has that many lanes; others are scaled by area.
        deep_interval: deep features are made on every N-th call of a row, from the first on.
        least: lanes that a set has at least, also where `lanes` are fewer: even, and as many as its widest row.
    """

    def __init__(self, lanes: int, base: Shape, deep_interval: int = 1, least: int = 2):
        self.lanes = lanes
        self.base = base
        self.deep_interval = deep_interval
        self.least = least
        self._sets: dict[Place, LaneSet] = {}
        self._queues: dict[Place, _Queue] = {}
        self._current: LaneSet | None = None
        self._unfinished: dict[int, Row] = {}
        self._newest = -1

    @property
    def room(self) -> int:
        """How many more rows it is worth submitting now."""
        oldest = next(iter(self._unfinished), self._newest + 1)
        return max(0, WINDOW * self.lanes - (self._newest + 1 - oldest))

    @property
    def idle(self) -> bool:
        return not self._unfinished

    @property
    def used(self) -> int:
        """Lanes that hold a row, in all sets together."""
        return sum(lane_set.size - lane_set.free for lane_set in list(self._sets.values()))

    @property
    def rows_waiting(self) -> int:
        return len(self._unfinished) - sum(len(lane_set.rows) for lane_set in list(self._sets.values()))

    def size(self, shape: Shape) -> int:
        """Lanes of a set of this shape: even, and a function of the settings alone."""
        area = self.base[0] * self.base[1] / (shape[0] * shape[1])
        return max(self.least, int(self.lanes * min(area, MAX_GROWTH)) // 2 * 2)

    def submit(self, row: Row) -> None:
        self._newest = row.index
        self._unfinished[row.index] = row
        self._queue(row.place).push(row)

    def select(self) -> LaneSet | None:
        """The set to run next: the one that gets fullest; on a tie the current one, then the oldest row's."""
        sets = [self._set(place) for place, queue in self._queues.items() if queue.lanes]
        sets += [lane_set for lane_set in self._sets.values() if lane_set.rows and lane_set not in sets]
        self._current = max(sets, key=self._preference, default=None)
        return self._current

    def admit(self, lane_set: LaneSet, may_enter: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        """Fill the free lanes of a set with waiting rows; returns those that came in.

        `may_enter` is asked of one row after the other, and a row of which it is true comes in. It must let one into
        a set without rows.

        Oldest first, so that a shard's rows finish together; but longest first once the window is no longer
        kept full, which means that the work comes to its end: a long row that begins last runs alone.
        """
        admitted = []
        if lane_set.passes_since_deep:
            return admitted
        queue = self._queue(lane_set.place)
        pop = queue.pop_longest if self.room else queue.pop_oldest
        while row := pop(lane_set.free, may_enter):
            lane_set.admit(row)
            admitted.append(row)
        return admitted

    def waiting(self, lane_set: LaneSet) -> list[Row]:
        """Rows that wait for lanes of this set, oldest first."""
        return list(self._queue(lane_set.place))

    def advance(self, lane_set: LaneSet) -> list[Row]:
        """Count one call for every row of the set; returns those whose unconditional lane others may have now."""
        lane_set.passes_since_deep = (lane_set.passes_since_deep + 1) % self.deep_interval
        for row in lane_set.rows:
            row.call += 1
        narrowed = [row for row in lane_set.rows if row.partner != row.lane and row.call == row.paired_calls]
        for row in narrowed:
            lane_set.narrow(row)
        return narrowed

    def finished(self, lane_set: LaneSet) -> list[Row]:
        """Rows of the set that have had all their calls."""
        return [row for row in lane_set.rows if row.call == row.calls]

    def retire(self, lane_set: LaneSet, row: Row) -> None:
        """Take a row out of its lanes for good."""
        lane_set.retire(row)
        del self._unfinished[row.index]

    def rebuild(self, lanes: int) -> None:
        """Start over with another count of lanes: rows that were sampling wait again, in their old order."""
        self.lanes = lanes
        self._sets.clear()
        self._queues.clear()
        self._current = None
        for row in self._unfinished.values():
            self._queue(row.place).push(row)

    def release(self, lane_set: LaneSet) -> bool:
        """Forget a set that has no rows and none waiting for it; whether it was forgotten."""
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
