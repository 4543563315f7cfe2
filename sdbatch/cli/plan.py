"""`sdbatch plan`: what generate would do, in a page of text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from sdbatch.cli.options import RUN_USAGE, add_run_options, command
from sdbatch.settings import RunSettings
from sdbatch.words import counted, duration, size

if TYPE_CHECKING:
    from sdbatch.forecast import Forecast, Tally
    from sdbatch.plan import Plan

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch plan prompts.parquet out/
      rows, shards, what is done; rows that can't be made, and why; which settings the others have
  sdbatch plan prompts.parquet out/ --measure --price-per-hour 0.6
      how long it would take with workers like this machine, and what that costs
  sdbatch plan prompts.parquet out/ --images-per-second 3.5 --actors 16
      how long it would take sixteen workers of a known speed
Takes the options of generate, and reads the whole table. Starts no Ray, and runs no model but with --measure.

exit status: 0 every row can be made, 1 some can't (they are listed), 2 bad usage or bad input
"""
SHOWN_VALUES = 6
SHOWN_REASONS = 20
SHOWN_CHARACTERS = 100
BYTES_A_NUMBER = {"fp32": 4, "fp16": 2, "bf16": 2}


def add(commands: Any, config: Mapping[str, Any]) -> None:
    parser = command(commands, "plan", _plan, "say what generate would do, without doing it", EXAMPLES, RUN_USAGE)
    add_run_options(parser, config)
    estimate = parser.add_argument_group("estimate")
    speed = estimate.add_mutually_exclusive_group()
    speed.add_argument("--images-per-second", type=_positive, metavar="X", help="of one worker")
    speed.add_argument(
        "--measure", action="store_true", help="try some rows of the table on this machine, for a few seconds"
    )
    estimate.add_argument("--price-per-hour", type=_positive, metavar="P", help="of one worker")
    parser.set_defaults(**{name: value for name, value in config.items() if name != "log_format"})


def _plan(
    prompts: str,
    out: str,
    images_per_second: float | None,
    measure: bool,
    price_per_hour: float | None,
    **options: Any,
) -> int:
    from sdbatch.forecast import make_forecast
    from sdbatch.plan import make_plan

    settings = RunSettings.from_options(options)
    plan = make_plan(prompts, out, settings)
    _print(_outline(plan, settings))
    forecast = make_forecast(plan, settings)
    _print(_bad_rows(forecast))
    _print(_settings(forecast))
    _print(_work(plan, settings, forecast, images_per_second, measure, price_per_hour))
    return 1 if forecast.bad else 0


def _print(lines: Iterator[str]) -> None:
    print("\n".join(lines), flush=True)  # flushed, since what follows may take its time


def _outline(plan: Plan, settings: RunSettings) -> Iterator[str]:
    model, images = plan.model, settings.images_per_prompt
    yield f"table   {plan.rows:,} rows in {counted(len(plan.files), 'file')}" + (
        f", {images} images each: {plan.rows * images:,} images" if images > 1 else ""
    )
    yield f"model   {model.name} ({model.family}, {model.width}x{model.height}, {model.prediction_type})"
    part = "" if settings.part == (1, 1) else f" of part {settings.part[0]}/{settings.part[1]}"
    yield f"out     {plan.out.url}" + ("" if plan.known else ", new")
    yield (
        f"shards  {len(plan.shards):,} of up to {counted(plan.record.shard_rows, 'row')}; "
        f"{len(plan.todo):,}{part} to do, with {counted(sum(s.rows for s in plan.todo), 'row')}"
    )


def _bad_rows(forecast: Forecast) -> Iterator[str]:
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


def _settings(forecast: Forecast) -> Iterator[str]:
    if forecast.rows == forecast.bad:
        return
    yield f"\nsettings of the {forecast.rows - forecast.bad:,} good rows, and how many have them"
    sizes = {f"{width}x{height}": n for (height, width), n in forecast.sizes.counts.items()}
    for name, tally, counts in (
        ("sampler", forecast.samplers, forecast.samplers.counts),
        ("steps", forecast.steps, forecast.steps.counts),
        ("guidance", forecast.guidance_scales, forecast.guidance_scales.counts),
        ("size", forecast.sizes, sizes),
    ):
        yield f"  {name:8}  {_distribution(tally, counts)}"


def _distribution(tally: Tally, counts: dict[Any, int]) -> str:
    """The commonest values in their own order, and what else there is."""
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
    price_per_hour: float | None,
) -> Iterator[str]:
    calls = sum(forecast.calls_to_do.values())
    yield f"\nto do   {forecast.good_to_do:,} images, {calls:,} calls of the model (two a step with guidance)"
    if measure and forecast.sample:
        speed = _measured(plan, settings, forecast)
        passes = forecast.passes(speed.lanes, plan.model)
        yield f"        in {passes:,.0f} passes of {speed.lanes} lanes, if all are full"
        yield f"speed   {speed.passes_per_second:.2f} passes a second on {speed.device_name}, {speed.dtype}"
        yield f"memory  {size(speed.peak_bytes)} at most, measured at {speed.lanes} lanes"
        seconds = passes / speed.passes_per_second
    else:
        yield f"memory  {_weights(plan, settings)}; what sampling adds is measured by --measure"
        seconds = forecast.good_to_do / images_per_second if images_per_second else None
    yield _time(seconds, settings, price_per_hour)


def _measured(plan: Plan, settings: RunSettings, forecast: Forecast) -> Any:
    import torch

    from sdbatch.engine_config import resolve_engine
    from sdbatch.measure import measure

    engine = resolve_engine(settings, plan.record.engine, has_gpus=torch.cuda.is_available())
    return measure(plan.model.folder, engine, forecast.sample)


def _weights(plan: Plan, settings: RunSettings) -> str:
    from sdbatch.diffusion.calls import count_parameters

    numbers = count_parameters(plan.model)
    dtypes = ("fp32", "fp16") if settings.dtype == "auto" else (settings.dtype,)
    sizes = " or ".join(f"{size(numbers * BYTES_A_NUMBER[dtype])} in {dtype}" for dtype in dtypes)
    return f"the model's {numbers / 1e6:,.1f} million numbers take {sizes}"


def _time(seconds: float | None, settings: RunSettings, price_per_hour: float | None) -> str:
    if seconds is None:
        return "time    not known; --measure tries it on this machine, --images-per-second X says it"
    text = f"time    {duration(seconds)} of one worker"
    if settings.actors:
        text += f", {duration(seconds / settings.actors[1])} of {settings.actors[1]}"
    if price_per_hour:
        text += f"; that costs {price_per_hour * seconds / 3600:,.4g} at {price_per_hour:g} an hour"
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from exc
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0")
    return value
