"""Checks a whole table row by row: which rows can't be made and why, and how much work the others are."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sdbatch.diffusion import ModelInfo, Request, validate
from sdbatch.diffusion.adapters.control_rows import mode_refusal
from sdbatch.diffusion.calls import lane_calls, needs_table, net_calls
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.lanes import Lanes
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.engine_settings import LANES_ON_CPU
from sdbatch.errors import SamplerError
from sdbatch.fields import FrozenMapping
from sdbatch.plan.picture_sizes import PictureSizes, expected_fill, known_size, look_at, watermark_refusal
from sdbatch.plan.planning import Plan
from sdbatch.prompts import Piece, PromptRow, mended_texts, parse, read_table
from sdbatch.prompts.picture_cells import PictureReader, folder_of, paths_in, picture_names, unread
from sdbatch.settings import RunSettings

__all__ = ["BadRows", "Forecast", "Tally", "make_forecast"]

ROWS_AT_ONCE = 8192
# Distinct values and reasons that are kept; the rest is only counted, to bound memory.
DISTINCT = 1000
SAMPLE = 64
SHARDS_AT_ONCE = 2  # that a worker makes
PICTURES = 256  # whose sizes are read
# Settings whose column may mean something else; single ones come before the pair.
BLAMABLE = (("steps",), ("guidance_scale",), ("sampler",), ("height",), ("width",), ("height", "width"))
# Time limit for compiling samplers' tables; one takes hundredths of a second, LMS with 500 steps ten.
TABLE_SECONDS = 30.0


def without_loras(request: Request) -> Request:
    """The request without its LoRAs."""
    if "lora" not in request.extra:
        return request
    extra = FrozenMapping({name: value for name, value in request.extra.items() if name != "lora"})
    return replace(request, extra=extra)


class Tally:
    """Counts the first `DISTINCT` values by value, and all others together in `others`."""

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
    samplers: Tally = field(default_factory=Tally)
    steps: Tally = field(default_factory=Tally)
    guidance_scales: Tally = field(default_factory=Tally)
    sizes: Tally = field(default_factory=Tally)
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


class _Judged(NamedTuple):
    """What the model makes of some settings: why it can't, else its calls times lanes, those of nets, and the size.

    The size is None if only the row's picture says it.
    """

    reason: str | None
    calls: int = 0
    net_calls: int = 0
    size: tuple[int, int] | None = None


class _Look:
    """Adds up rows."""

    def __init__(self, plan: Plan, settings: RunSettings) -> None:
        self.forecast = Forecast()
        self._info = plan.model
        self._family = family_named(plan.model.family)
        self._images = settings.images_per_prompt
        self._watermark = settings.watermark
        self._modes = {network.name: network.modes for network in plan.networks if network.setting == "controlnet"}
        self._pictures = picture_names(plan.columns.fields)
        self._own = {
            group: {name: getattr(settings, name) for name in group}
            for group in BLAMABLE
            if all(name in plan.columns.settings for name in group)
        }
        self._named = {f"{plan.columns.settings[name]} is ": name for group in self._own for name in group}
        self._known: dict[Request, _Judged] = {}
        self._with_pictures: list[tuple[int, Request, str]] = []
        self._culprits: dict[Request, tuple[str, ...]] = {}
        self._sample: list[tuple[Request, str]] = []
        self._random = random.Random(0)
        self._candidates = 0
        self._table_seconds = 0.0

    def add(self, row: PromptRow, file: str, number: int, is_to_do: bool) -> None:
        forecast, request = self.forecast, row.requests[0]
        forecast.rows += 1
        forecast.images_to_do += self._images * is_to_do
        # `parse` checks seeds, and texts are checked one by one; the remaining settings repeat often.
        negative_prompt = "any" if request.negative_prompt else ""  # some families have guidance only with one
        settings = replace(request, prompt="any", negative_prompt=negative_prompt, seed=0)
        settings = self._family_texts(without_loras(unread(settings, self._pictures)))  # of LoRAs the plan knows more
        error = row.error or self._family.refused_texts(request)
        judged = _Judged(error) if error else self._judge(settings)
        if (reason := judged.reason) is not None:
            self._count_bad(reason, file, number)
            if culprit := self._unread(reason) if error else self._culprit(settings):
                forecast.blamed[culprit] += 1
            return
        forecast.samplers.add(resolve(request.sampler))
        forecast.steps.add(request.steps)
        forecast.guidance_scales.add(request.guidance_scale)
        if (size := judged.size) is None:
            self._keep_picture(request, file)
            size = self._info.height, self._info.width
        else:
            forecast.sizes.add(size)
        if is_to_do:
            forecast.good_to_do += self._images
            forecast.calls_to_do[size] += judged.calls * self._images
            forecast.control_calls_to_do += judged.net_calls * self._images
            self._perhaps_keep(without_loras(request), file)

    def _family_texts(self, request: Request) -> Request:
        """The request with one text in place of each that only the family has."""
        texts = {name: "any" for name in self._family.texts if request.extra.get(name)}
        return replace(request, extra={**request.extra, **texts}) if texts else request

    def look_at_pictures(self, plan: Plan, settings: RunSettings) -> None:
        """Sizes of some pictures, and what they mean for the lanes."""
        forecast = self.forecast
        forecast.sample = [request for request, _ in self._sample]
        if not self._with_pictures:
            return
        given = frozenset(path for name in self._pictures for path in paths_in(settings.extra.get(name)))
        reader = PictureReader(self._pictures, settings.storage_options, settings.allow_image_urls, given)
        rows = [(request, folder) for _, request, folder in sorted(self._with_pictures, key=lambda row: row[0])]
        forecast.pictures = look_at(rows, reader, self._info)
        read = [reader.read(*row) for row in self._sample]
        forecast.sample = [request for request in read if known_size(request, self._info) is not None]
        known = [size for size, count in forecast.sizes.counts.items() for _ in range(min(count, PICTURES))]
        sizes = [*forecast.pictures.sizes, *known]
        if sizes:
            engine = plan.record.engine
            lanes = settings.lanes or (engine and engine.lanes) or LANES_ON_CPU
            at_once = min(SHARDS_AT_ONCE * plan.record.shard_rows, forecast.rows) * self._images
            guided = 2 if any(scale > 1 for scale in forecast.guidance_scales.counts) else 1
            forecast.fill = expected_fill(sizes, at_once, lanes, guided, self._info)

    def _keep_picture(self, request: Request, file: str) -> None:
        """Reservoir sampling of the rows whose size their picture says."""
        forecast = self.forecast
        forecast.picture_rows += 1
        row = forecast.picture_rows, request, folder_of(file)
        if len(self._with_pictures) < PICTURES:
            self._with_pictures.append(row)
        elif (place := self._random.randrange(forecast.picture_rows)) < PICTURES:
            self._with_pictures[place] = row

    def _refusal(self, request: Request) -> str | None:
        """Why the request cannot become a picture of this run."""
        return (
            validate(request, self._info)
            or mode_refusal(request, self._modes)
            or watermark_refusal(request, self._info, self._watermark)
        )

    def _judge(self, request: Request) -> _Judged:
        if request not in self._known:
            if len(self._known) >= DISTINCT:
                self._known.clear()
            reason, calls = self._refusal(request), 0
            if reason is None:
                reason, calls = self._calls(request)
            if reason is None:
                self._known[request] = _Judged(
                    None, calls, net_calls(request, self._info), known_size(request, self._info)
                )
            else:
                self._known[request] = _Judged(reason)
        return self._known[request]

    def _unread(self, reason: str) -> tuple[str, ...]:
        """The setting whose column the reason names."""
        return next(((setting,) for column, setting in self._named.items() if reason.startswith(column)), ())

    def _culprit(self, request: Request) -> tuple[str, ...]:
        """The smallest group of the table's settings without which a request could be made."""
        if request not in self._culprits:
            if len(self._culprits) >= DISTINCT:
                self._culprits.clear()
            good = (group for group, own in self._own.items() if self._refusal(replace(request, **own)) is None)
            self._culprits[request] = next(good, ())
        return self._culprits[request]

    def _calls(self, request: Request) -> tuple[str | None, int]:
        started = time.monotonic()
        compiled = self._table_seconds < TABLE_SECONDS
        if not compiled and needs_table(request, self._info) and len(self.forecast.untried) < DISTINCT:
            self.forecast.untried.add((resolve(request.sampler), int(request.steps)))
        try:
            return None, lane_calls(request, self._info, compiled=compiled)
        except SamplerError as error:
            return str(error), 0
        finally:
            self._table_seconds += time.monotonic() - started

    def _count_bad(self, reason: str, file: str, row: int) -> None:
        reasons = self.forecast.reasons
        self.forecast.bad += 1
        if reason not in reasons and len(reasons) >= DISTINCT:
            reason = "other reasons"
        reasons.setdefault(reason, BadRows(file, row)).count += 1

    def _perhaps_keep(self, request: Request, file: str) -> None:
        """Reservoir sampling (Vitter 1985): each request is kept with the same probability."""
        self._candidates += 1
        sample = self._sample
        if len(sample) < SAMPLE:
            sample.append((request, folder_of(file)))
        elif (place := self._random.randrange(self._candidates)) < SAMPLE:
            sample[place] = request, folder_of(file)
