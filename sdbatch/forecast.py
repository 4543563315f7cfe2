"""What a table asks for, row by row: which rows can't be made and why, and how much work the others are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

from sdbatch.diffusion import ModelInfo, Request, validate
from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.lanes import Lanes
from sdbatch.diffusion.samplers import resolve
from sdbatch.errors import SamplerError
from sdbatch.plan import Plan
from sdbatch.prompts import PromptRow, parse, read_rows
from sdbatch.settings import RunSettings

__all__ = ["BadRows", "Forecast", "Tally", "make_forecast"]

ROWS_AT_ONCE = 8192
# Values and reasons that are told apart; the rest is only counted, so that any table fits into memory.
DISTINCT = 1000
SAMPLE = 64


class Tally:
    """How often each value occurs, of the first `DISTINCT` that come; `others` counts the rest."""

    def __init__(self) -> None:
        self.counts: Counter[Hashable] = Counter()
        self.others = 0

    def add(self, value: Hashable) -> None:
        if value in self.counts or len(self.counts) < DISTINCT:
            self.counts[value] += 1
        else:
            self.others += 1


@dataclass
class BadRows:
    """Rows that can't be made for one reason, and where the first of them is; rows count from 0."""

    file: str
    row: int
    count: int = 0


@dataclass
class Forecast:
    """A table, looked through.

    Attributes:
        rows, bad: rows of the whole table, and those of them that can't be made.
        reasons: the latter by reason.
        samplers, steps, guidance_scales, sizes: of the rows that can be made; a size is (height, width).
        images_to_do, good_to_do: images of this part that have no shard yet, and those that can be made.
        calls_to_do: by size, the model's calls for them, times the lanes that each takes.
        sample: some of the requests that are to do, chosen at random.
    """

    rows: int = 0
    bad: int = 0
    reasons: dict[str, BadRows] = field(default_factory=dict)
    samplers: Tally = field(default_factory=Tally)
    steps: Tally = field(default_factory=Tally)
    guidance_scales: Tally = field(default_factory=Tally)
    sizes: Tally = field(default_factory=Tally)
    images_to_do: int = 0
    good_to_do: int = 0
    calls_to_do: Counter[tuple[int, int]] = field(default_factory=Counter)
    sample: list[Request] = field(default_factory=list)

    def passes(self, lanes: int, info: ModelInfo) -> float:
        """Passes of the UNet that the calls to do take if every lane is always full."""
        sets = Lanes(lanes, (info.height, info.width))
        return sum(calls / sets.size(size) for size, calls in self.calls_to_do.items())


def make_forecast(plan: Plan, settings: RunSettings) -> Forecast:
    """Look through the whole table. Memory is bounded; no model is loaded.

    Raises:
        InputError: a file of the table is damaged.
        StorageError: the store refuses.
    """
    look = _Look(plan, settings)
    for number, rows, first_row, is_to_do in _pieces(plan, settings):
        for row, prompt_row in enumerate(rows, first_row):
            look.add(prompt_row, plan.files[number].path, row, is_to_do)
    return look.forecast


def _pieces(plan: Plan, settings: RunSettings) -> Iterator[tuple[int, list[PromptRow], int, bool]]:
    """The table piece by piece: the file's number, the rows, the first one's place, whether they are to do."""
    to_do = {shard.number for shard in plan.todo}
    columns = plan.columns.without_carried()
    for number, shards in groupby(plan.shards, key=lambda shard: shard.file):
        ranges: list[tuple[int, int]] = []
        flags: list[bool] = []
        for shard in shards:
            flag = shard.number in to_do
            if flags and flags[-1] == flag and ranges[-1][1] + shard.rows <= ROWS_AT_ONCE:
                first_row, rows = ranges[-1]
                ranges[-1] = first_row, rows + shard.rows
            else:
                ranges.append((shard.first_row, shard.rows))
                flags.append(flag)
        tables = read_rows(plan.files[number], columns, ranges, settings.storage_options)
        for (first_row, _), flag, table in zip(ranges, flags, tables, strict=True):
            yield number, parse(table, columns, settings, number, first_row), first_row, flag


class _Look:
    """Adds up rows."""

    def __init__(self, plan: Plan, settings: RunSettings) -> None:
        self.forecast = Forecast()
        self._info = plan.model
        self._images = settings.images_per_prompt
        self._known: dict[Request, tuple[str | None, int]] = {}
        self._random = random.Random(0)
        self._candidates = 0

    def add(self, row: PromptRow, file: str, number: int, is_to_do: bool) -> None:
        forecast, request = self.forecast, row.requests[0]
        forecast.rows += 1
        forecast.images_to_do += self._images * is_to_do
        # Texts and seeds are judged by `parse`; what is left comes again and again.
        settings = replace(request, prompt="any", negative_prompt="", seed=0)
        reason, calls = (row.error, 0) if row.error else self._judge(settings)
        if reason is not None:
            self._count_bad(reason, file, number)
            return
        size = request.height or self._info.height, request.width or self._info.width
        forecast.samplers.add(resolve(request.sampler))
        forecast.steps.add(request.steps)
        forecast.guidance_scales.add(request.guidance_scale)
        forecast.sizes.add(size)
        if is_to_do:
            forecast.good_to_do += self._images
            forecast.calls_to_do[size] += calls * self._images
            self._perhaps_keep(request)

    def _judge(self, request: Request) -> tuple[str | None, int]:
        """Why the request can't be made, or None; and the model's calls times lanes if it can."""
        if request not in self._known:
            if len(self._known) >= DISTINCT:
                self._known.clear()
            reason, calls = validate(request, self._info), 0
            if reason is None:
                try:
                    calls = lane_calls(request, self._info)
                except SamplerError as error:
                    reason = str(error)
            self._known[request] = reason, calls
        return self._known[request]

    def _count_bad(self, reason: str, file: str, row: int) -> None:
        reasons = self.forecast.reasons
        self.forecast.bad += 1
        if reason not in reasons and len(reasons) >= DISTINCT:
            reason = "other reasons"
        reasons.setdefault(reason, BadRows(file, row)).count += 1

    def _perhaps_keep(self, request: Request) -> None:
        """Reservoir sampling (Vitter 1985): each request is kept with the same chance."""
        self._candidates += 1
        sample = self.forecast.sample
        if len(sample) < SAMPLE:
            sample.append(request)
        elif (place := self._random.randrange(self._candidates)) < SAMPLE:
            sample[place] = request
