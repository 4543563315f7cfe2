"""`sdbatch plan`: show what generate would do."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from sdbatch.bounds import Number
from sdbatch.cli.options import RUN_USAGE, add_run_options, command, numeric
from sdbatch.cli.words import counted, duration, mended, size
from sdbatch.errors import UsageError
from sdbatch.scoring.attempts import expected_attempts
from sdbatch.settings import RunSettings

if TYPE_CHECKING:
    from sdbatch.plan.forecast import Forecast, Tally
    from sdbatch.plan.planning import Plan

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch plan prompts.parquet out/
      rows, shards, finished work; rows that can't be made, and why; the settings of the others
  sdbatch plan prompts.parquet out/ --measure --price-per-hour 0.6
      the time with workers like this machine, and its cost
  sdbatch plan prompts.parquet out/ --scorer obedience --keep "obedience == 1" --attempts 4 --acceptance 0.8
      the number of attempts, if eight of ten pictures are kept
  sdbatch plan prompts.parquet out/ --images-per-second 3.5 --actors 16
      the time with sixteen workers of a known speed
Takes the options of generate, and reads the whole table. Does not start Ray, and runs the model only with --measure.

exit status: 0 every row can be made, 1 some can't (they are listed), 2 bad usage or bad input
"""
SHOWN_VALUES = 6
SHOWN_REASONS = 20
SHOWN_CHARACTERS = 100
MIN_FILL = 0.5


def add(commands: Any) -> argparse.ArgumentParser:
    parser = command(commands, "plan", _plan, "show what generate would do, without doing it", EXAMPLES, RUN_USAGE)
    add_run_options(parser)
    estimate = parser.add_argument_group("estimate")
    speed = estimate.add_mutually_exclusive_group()
    images_per_second = numeric("--images-per-second", Number(1e-6, 1e9))
    speed.add_argument("--images-per-second", type=images_per_second, metavar="X", help="of one worker")
    speed.add_argument(
        "--measure", action="store_true", help="run some rows of the table on this machine, for a few seconds"
    )
    acceptance = numeric("--acceptance", Number(1e-6, 1))
    estimate.add_argument(
        "--acceptance", type=acceptance, metavar="P", help="share of the pictures that --keep keeps, for --attempts"
    )
    return parser


def _plan(
    prompts: str,
    out: str,
    images_per_second: float | None,
    measure: bool,
    acceptance: float | None,
    **options: Any,
) -> int:
    from sdbatch.plan.finished import without_unfinished
    from sdbatch.plan.forecast import make_forecast
    from sdbatch.plan.planning import make_plan

    settings = RunSettings.from_options(options)
    if acceptance is not None and settings.keep is None:
        raise UsageError(f"--acceptance {acceptance:g}: requires --keep")
    plan, _ = without_unfinished(make_plan(prompts, out, settings))
    settings = plan.settings
    _print(_outline(plan, settings))
    forecast = make_forecast(plan, settings)
    _print(_bad_rows(forecast))
    _print(_misread(forecast, plan))
    _print(_settings(forecast))
    _print(_work(plan, settings, forecast, images_per_second, measure, acceptance))
    return 1 if forecast.bad else 0


def _print(lines: Iterator[str]) -> None:
    print("\n".join(lines), flush=True)  # flushed, since the rest may take a while


def _outline(plan: Plan, settings: RunSettings) -> Iterator[str]:
    from sdbatch.prompts import carried_columns, readings, setting_columns, unused_settings

    model, images = plan.model, settings.images_per_prompt
    yield f"table   {counted(plan.rows, 'row')} in {counted(len(plan.files), 'file')}" + (
        f", {images} images each: {plan.rows * images:,} images" if images > 1 else ""
    )
    yield from (f"text    {text}" for text in readings(plan.files, plan.columns))
    yield f"columns {setting_columns(plan.columns)}"
    yield f"carried {carried_columns(plan.columns)}"
    yield from (f"warning: {text}" for text in (*unused_settings(plan.columns), *plan.notices))
    yield f"model   {model.name} ({model.family}, {model.width}x{model.height}, {model.prediction_type})"
    part = "" if settings.part == (1, 1) else f" of part {settings.part[0]}/{settings.part[1]}"
    yield f"out     {plan.out.url}" + ("" if plan.known else ", new")
    yield (
        f"shards  {len(plan.shards):,} of up to {counted(plan.record.shard_rows, 'row')}; "
        f"{len(plan.todo):,}{part} to do, with {counted(plan.todo.rows, 'row')}"
    )


def _bad_rows(forecast: Forecast) -> Iterator[str]:
    if forecast.untried:
        some = "{} at {} steps".format(*min(forecast.untried))
        yield f"\nnot tried  {counted(len(forecast.untried), 'sampler and steps')} (such as {some}): there are too many"
    if forecast.mended_texts:
        yield f"\nnot UTF-8  {mended(forecast.mended_texts)}"
    if not forecast.bad:
        yield "\nbad rows  none"
        return
    yield f"\nbad rows  {forecast.bad:,} of {forecast.rows:,}; each fails alone, with its reason in the metadata"
    reasons = sorted(forecast.reasons.items(), key=lambda item: -item[1].count)
    width = len(f"{reasons[0][1].count:,}")
    for reason, bad in reasons[:SHOWN_REASONS]:
        yield f"  {bad.count:>{width},}  {shorten(reason, SHOWN_CHARACTERS, placeholder=' …')}"
        yield f"  {'':{width}}  first: {bad.file}, row {bad.row:,} (from 0)"
    if len(reasons) > SHOWN_REASONS:
        rest = sum(bad.count for _, bad in reasons[SHOWN_REASONS:])
        yield f"  {rest:>{width},}  {len(reasons) - SHOWN_REASONS:,} other reasons"


def _misread(forecast: Forecast, plan: Plan) -> Iterator[str]:
    """If most rows fail because of one column, it probably means something other than the setting."""
    counts: dict[str, int] = {}
    for settings, rows in forecast.blamed.items():
        for setting in settings:
            counts[setting] = counts.get(setting, 0) + rows
    if 2 * sum(forecast.blamed.values()) <= forecast.rows:
        return
    guilty = [setting for setting, rows in counts.items() if 4 * rows > forecast.rows]
    columns = [repr(plan.columns.settings[setting]) for setting in guilty]
    options = " ".join(f"--column {setting}=" for setting in guilty)
    yield f"\nmost rows fail because of {' and '.join(columns)}; to carry the values instead of using them: {options}"


def _settings(forecast: Forecast) -> Iterator[str]:
    if forecast.rows == forecast.bad:
        return
    yield f"\nsettings of the {counted(forecast.rows - forecast.bad, 'good row')}, and how many have them"
    sizes = {f"{width}x{height}": n for (height, width), n in forecast.sizes.counts.items()}
    for name, tally, counts in (
        ("sampler", forecast.samplers, forecast.samplers.counts),
        ("steps", forecast.steps, forecast.steps.counts),
        ("guidance", forecast.guidance_scales, forecast.guidance_scales.counts),
        ("size", forecast.sizes, sizes),
    ):
        if counts:
            yield f"  {name:8}  {_distribution(tally, counts)}"
    yield from _picture_sizes(forecast)


def _picture_sizes(forecast: Forecast) -> Iterator[str]:
    if not forecast.picture_rows:
        return
    found = forecast.pictures
    sizes = Counter(found.sizes)
    seen = len(found.sizes) + found.unreadable
    text = "   ".join(f"{width}x{height}: {n:,}" for (height, width), n in sizes.most_common(SHOWN_VALUES))
    more = f"   {len(sizes) - SHOWN_VALUES:,} others" if len(sizes) > SHOWN_VALUES else ""
    looked_at = f"of {seen:,} of {forecast.picture_rows:,} pictures" if seen < forecast.picture_rows else "of pictures"
    yield f"  {'size':8}  {looked_at}: {text or 'none is known'}{more}"
    if found.unreadable:
        yield f"warning: {found.unreadable:,} of {seen:,} pictures can't be used; the first: {found.reason}"
    if forecast.fill is not None:
        yield f"  lanes     expected to be {forecast.fill:.0%} full"
        if forecast.fill < MIN_FILL and len(sizes) > 1:
            yield (
                f"warning: rows of different sizes share no pass, so {1 - forecast.fill:.0%} of the lanes would be "
                "empty; bring the pictures to one size with --resize, or to a few with --resize buckets"
            )


def _distribution(tally: Tally[Any], counts: dict[Any, int]) -> str:
    """The most frequent values in their own order, and a summary of the rest."""
    common = sorted(counts, key=lambda value: -counts[value])
    shown = common[:SHOWN_VALUES] if len(common) > SHOWN_VALUES + 1 else common
    texts = [f"{value}: {counts[value]:,}" for value in (shown if isinstance(shown[0], str) else sorted(shown))]
    if rest := common[len(shown) :]:
        number = sum(counts[value] for value in rest) + tally.others
        span = "" if isinstance(rest[0], str) else f" from {min(rest)} to {max(rest)}"
        texts.append(f"{len(rest):,}{'+' * bool(tally.others)} others{span}: {number:,}")
    return "   ".join(texts)


def _work(
    plan: Plan,
    settings: RunSettings,
    forecast: Forecast,
    images_per_second: float | None,
    measure: bool,
    acceptance: float | None,
) -> Iterator[str]:
    calls = sum(forecast.calls_to_do.values())
    images = counted(forecast.good_to_do, "image")
    yield f"\nto do   {images}, {counted(calls, 'call')} of the model (two per step with guidance)"
    if settings.value("deep_cache") > 1:
        yield f"        all layers run in a row's first call, then in one of {settings.deep_cache} (--deep-cache)"
    if forecast.control_calls_to_do:
        yield f"        and {forecast.control_calls_to_do:,} calls of ControlNets"
    attempts = 1.0 if acceptance is None else expected_attempts(acceptance, settings.attempts)
    if acceptance is not None:
        exhausted = (1 - acceptance) ** settings.attempts
        yield (
            f"        at an acceptance of {acceptance:.0%}: {attempts:.2f} attempts per image, "
            f"{calls * attempts:,.0f} calls; {exhausted:.1%} of the images are not accepted in {settings.attempts}"
        )
    elif settings.attempts > 1:
        yield f"        for one attempt each, at most {settings.attempts} times that; --acceptance P estimates it"
    if measure and forecast.sample:
        speed = _measured(plan, settings, forecast)
        passes = forecast.passes(speed.lanes, plan.model) * attempts
        yield f"        in {passes:,.0f} passes of {speed.lanes} lanes, if all are full"
        yield f"speed   {speed.passes_per_second:.2f} passes per second on {speed.device_name}, {speed.dtype}"
        yield f"memory  {size(speed.peak_bytes)} at peak, measured at {speed.lanes} lanes"
        seconds = passes / speed.passes_per_second
    else:
        yield f"memory  {_weights(plan, settings)}; --measure shows the memory with sampling"
        seconds = forecast.good_to_do * attempts / images_per_second if images_per_second else None
    yield _time(seconds, settings)


def _measured(plan: Plan, settings: RunSettings, forecast: Forecast) -> Any:
    import torch

    from sdbatch.engine_settings import resolve_engine
    from sdbatch.plan.speed_test import measure

    engine = resolve_engine(settings, plan.record.engine, plan.model, has_gpus=torch.cuda.is_available())
    arguments = {**engine.arguments(), "release_text_encoders": settings.release_text_encoders}
    return measure(plan.model, arguments, forecast.sample)


def _weights(plan: Plan, settings: RunSettings) -> str:
    from sdbatch.diffusion.calls import count_parameters, weight_bytes
    from sdbatch.diffusion.device.gpu_room import room_on_gpus
    from sdbatch.diffusion.families import family_named

    recorded = plan.record.engine
    quantization = settings.quantization or (recorded.quantization if recorded else settings.value("quantization"))
    dtypes = ("fp32", str(plan.model.defaults["dtype"])) if settings.dtype == "auto" else (settings.dtype,)
    bytes_in = {dtype: weight_bytes(plan.model, dtype, quantization) for dtype in dtypes}
    sizes = " or ".join(f"{size(weights.together)} in {dtype}" for dtype, weights in bytes_in.items())
    eight_bit = "" if quantization == "none" else f", with layers of the denoiser in {quantization}"
    release = settings.release_text_encoders if family_named(plan.model.family).releases_text_encoders else "off"
    room = room_on_gpus(bytes_in[dtypes[-1]], release)
    return f"the model's {count_parameters(plan.model) / 1e6:,.1f} million parameters take {sizes}{eight_bit}" + (
        f"; in {dtypes[-1]} {room}" if room else ""
    )


def _time(seconds: float | None, settings: RunSettings) -> str:
    if seconds is None:
        return "time    unknown; --measure measures it on this machine, --images-per-second X sets it"
    text = f"time    {duration(seconds)} with one worker"
    if settings.actors:
        text += f", {duration(seconds / settings.actors[1])} with {settings.actors[1]}"
    if price := settings.price_per_hour:
        text += f"; cost {price * seconds / 3600:,.4g} at {price:g} per hour"
    return text
