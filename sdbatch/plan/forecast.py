"""Adds up what is known of a whole table: which rows can't be made and why, and how much work the others are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from sdbatch.diffusion import ModelInfo, Request
from sdbatch.diffusion.engine_choices import LANES_ON_CPU
from sdbatch.diffusion.lanes import Lanes
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.plan.capacity import SHARDS_AT_ONCE
from sdbatch.plan.picture_sizes import PictureSizes, expected_fill, known_size, look_at
from sdbatch.plan.planning import Plan
from sdbatch.plan.row_judge import RowJudge, without_loras
from sdbatch.prompts import Piece, PromptRow, mended_texts, parse, read_table
from sdbatch.prompts.picture_cells import PictureReader, folder_of, paths_in, picture_names
from sdbatch.settings import RunSettings

__all__ = ["BadRows", "Forecast", "Tally", "make_forecast"]

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

ROWS_AT_ONCE = 8192
# Distinct values and reasons that are kept; the rest is only counted, to bound memory.
DISTINCT = 1000
SAMPLE = 64
PICTURES = 256  # whose sizes are read


class Tally(Generic[H]):
    """Counts the first `DISTINCT` values by value, and all others together in `others`."""

    def __init__(self) -> None:
        self.counts: Counter[H] = Counter()
        self.others = 0

    def add(self, value: H) -> None:
        if value in self.counts or len(self.counts) < DISTINCT:
            self.counts[value] += 1
        else:
            self.others += 1


class Reservoir(Generic[T]):
    """A random sample of the added values, each with the same probability (Vitter 1985).

    Attributes:
        values: the sample, at most `size` values.
        added: number of values added.
    """

    def __init__(self, size: int, random: Random) -> None:
        self.values: list[T] = []
        self.added = 0
        self._size = size
        self._random = random

    def add(self, value: T) -> None:
        self.added += 1
        if len(self.values) < self._size:
            self.values.append(value)
        elif (place := self._random.randrange(self.added)) < self._size:
            self.values[place] = value


@dataclass
class BadRows:
    """Rows that can't be made for one reason, and the place of the first; rows count from 0."""

    file: str
    row: int
    count: int = 0


@dataclass
class Forecast:
    """The result of checking a table.

    Attributes:
        rows, bad: rows of the whole table, and rows that can't be made.
        reasons: the bad rows by reason.
        samplers, steps, guidance_scales, sizes: of the rows that can be made; a size is (height, width).
        picture_rows: rows that have the size of their picture; they are not in `sizes`.
        pictures: a random sample of these rows' picture sizes.
        fill: the expected share of full lanes, if pictures decide the size; else None.
        images_to_do, good_to_do: images of this part without a finished shard, and those of them that can be made.
        calls_to_do: their calls of the model times lanes, by size.
        control_calls_to_do: their calls of ControlNets times lanes.
        mended_texts: carried texts that are not UTF-8.
        blamed: number of rows that could be made if one column (or both columns of a size) used the run's value.
        untried: (sampler, steps) that were not compiled within the time limit.
        sample: a random sample of the requests to do.
    """

    rows: int = 0
    bad: int = 0
    reasons: dict[str, BadRows] = field(default_factory=dict)
    samplers: Tally[str] = field(default_factory=Tally)
    steps: Tally[int] = field(default_factory=Tally)
    guidance_scales: Tally[float] = field(default_factory=Tally)
    sizes: Tally[tuple[int, int]] = field(default_factory=Tally)
    picture_rows: int = 0
    pictures: PictureSizes = field(default_factory=lambda: PictureSizes(()))
    fill: float | None = None
    images_to_do: int = 0
    good_to_do: int = 0
    calls_to_do: Counter[tuple[int, int]] = field(default_factory=Counter)
    control_calls_to_do: int = 0
    mended_texts: int = 0
    blamed: Counter[tuple[str, ...]] = field(default_factory=Counter)
    untried: set[tuple[str, int]] = field(default_factory=set)
    sample: list[Request] = field(default_factory=list)

    def passes(self, lanes: int, info: ModelInfo) -> float:
        """Passes of the UNet for the calls to do, if every lane is always full."""
        sets = Lanes(lanes, (info.height, info.width))
        return sum(calls / sets.size(size) for size, calls in self.calls_to_do.items())


def make_forecast(plan: Plan, settings: RunSettings) -> Forecast:
    """Check the whole table. Memory is bounded; no model is loaded.

    Raises:
        InputError: a file of the table is damaged.
        StorageError: a file cannot be read.
    """
    look = _Look(plan, settings)
    for rows, pieces, is_to_do, mended in _pieces(plan, settings):
        places = ((piece.file, piece.first_row + i) for piece in pieces for i in range(piece.rows))
        look.forecast.mended_texts += mended
        for prompt_row, (number, row) in zip(rows, places, strict=True):
            look.add(prompt_row, plan.files[number].path, row, is_to_do)
    look.look_at_pictures(plan, settings)
    return look.forecast


def _pieces(plan: Plan, settings: RunSettings) -> Iterator[tuple[list[PromptRow], tuple[Piece, ...], bool, int]]:
    """The table, several shards at a time: rows, their places, whether they are to do, number of mended texts."""
    columns = plan.columns.with_carried_texts()
    # Carried columns may be large: read no more at a time than a worker does.
    rows_at_once = 0 if columns.carried else ROWS_AT_ONCE
    spans: list[tuple[int, int]] = []
    flags: list[bool] = []
    for shard in plan.shards:
        is_to_do = shard.number in plan.todo
        if flags and flags[-1] == is_to_do and spans[-1][1] + shard.rows <= rows_at_once:
            spans[-1] = spans[-1][0], spans[-1][1] + shard.rows
        else:
            spans.append((shard.first_row, shard.rows))
            flags.append(is_to_do)
    pieces = [plan.shards.pieces(*span) for span in spans]
    tables = read_table(plan.files, columns, pieces, settings.storage_options)
    for table, where, is_to_do in zip(tables, pieces, flags, strict=True):
        yield parse(table, columns, settings, where), where, is_to_do, mended_texts(table)


class _Look:
    """Adds up rows."""

    def __init__(self, plan: Plan, settings: RunSettings) -> None:
        self._judge = RowJudge(plan, settings)
        self.forecast = Forecast(untried=self._judge.untried)
        self._info = plan.model
        self._images = settings.images_per_prompt
        self._pictures = picture_names(plan.columns.fields)
        random = Random(0)
        self._with_pictures: Reservoir[tuple[int, Request, str]] = Reservoir(PICTURES, random)
        self._sample: Reservoir[tuple[Request, str]] = Reservoir(SAMPLE, random)

    def add(self, row: PromptRow, file: str, number: int, is_to_do: bool) -> None:
        forecast, request = self.forecast, row.requests[0]
        forecast.rows += 1
        forecast.images_to_do += self._images * is_to_do
        judged = self._judge.judge(row)
        if judged.reason is not None:
            self._count_bad(judged.reason, file, number)
            if judged.blamed:
                forecast.blamed[judged.blamed] += 1
            return
        forecast.samplers.add(resolve(request.sampler))
        forecast.steps.add(request.steps)
        forecast.guidance_scales.add(request.guidance_scale)
        if (size := judged.size) is None:
            forecast.picture_rows += 1
            self._with_pictures.add((forecast.picture_rows, request, folder_of(file)))
            size = self._info.height, self._info.width
        else:
            forecast.sizes.add(size)
        if is_to_do:
            forecast.good_to_do += self._images
            forecast.calls_to_do[size] += judged.calls * self._images
            forecast.control_calls_to_do += judged.net_calls * self._images
            self._sample.add((without_loras(request), folder_of(file)))

    def look_at_pictures(self, plan: Plan, settings: RunSettings) -> None:
        """Sizes of some pictures, and what they mean for the lanes."""
        forecast = self.forecast
        forecast.sample = [request for request, _ in self._sample.values]
        if not self._with_pictures.values:
            return
        given = frozenset(path for name in self._pictures for path in paths_in(settings.extra.get(name)))
        reader = PictureReader(self._pictures, settings.storage_options, settings.allow_image_urls, given)
        rows = [(request, folder) for _, request, folder in sorted(self._with_pictures.values, key=lambda row: row[0])]
        forecast.pictures = look_at(rows, reader, self._info)
        read = [reader.read(*row) for row in self._sample.values]
        forecast.sample = [request for request in read if known_size(request, self._info) is not None]
        known = [size for size, count in forecast.sizes.counts.items() for _ in range(min(count, PICTURES))]
        sizes = [*forecast.pictures.sizes, *known]
        if sizes:
            engine = plan.record.engine
            lanes = settings.lanes or (engine and engine.lanes) or LANES_ON_CPU
            at_once = min(SHARDS_AT_ONCE * plan.record.shard_rows, forecast.rows) * self._images
            guided = 2 if any(scale > 1 for scale in forecast.guidance_scales.counts) else 1
            forecast.fill = expected_fill(sizes, at_once, lanes, guided, self._info)

    def _count_bad(self, reason: str, file: str, row: int) -> None:
        reasons = self.forecast.reasons
        self.forecast.bad += 1
        if reason not in reasons and len(reasons) >= DISTINCT:
            reason = "other reasons"
        reasons.setdefault(reason, BadRows(file, row)).count += 1
