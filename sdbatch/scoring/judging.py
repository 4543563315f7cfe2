"""Sets up scoring from a run's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.errors import UsageError
from sdbatch.fields import Field
from sdbatch.kinds import Seed, Text
from sdbatch.scoring.attempts import KeepPolicy
from sdbatch.scoring.expressions import Kind
from sdbatch.scoring.judged_engine import JudgedEngine
from sdbatch.scoring.registry import Declaration, Models, find_scorers
from sdbatch.scoring.scorer_weights import refuse_unused, weight_paths, weights_hash

__all__ = ["Judged", "column_kinds", "judged_columns", "judged_engine", "keep_policy", "scorer_weights"]

KINDS: Mapping[type, Kind] = {Text: "text", Number: "number", Whole: "number", Seed: "number"}


class Judged(Protocol):
    """The settings of a run for scoring."""

    @property
    def scorer(self) -> tuple[str, ...]: ...
    @property
    def scorer_model(self) -> Mapping[str, str]: ...
    @property
    def keep(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def best(self) -> str | None: ...
    @property
    def on_exhausted(self) -> str: ...
    @property
    def on_nsfw(self) -> str: ...


def score_kinds(declared: Iterable[Declaration]) -> dict[str, Kind]:
    """The columns that scorers fill."""
    return {name: kind for found in declared for name, kind in found.columns.items()}


def judged_columns(settings: Judged) -> dict[str, str]:
    """The columns that judging adds to the metadata: "count", "flag", "number" or "text" by name.

    Raises:
        UsageError: an unknown scorer.
    """
    tried = {"attempt": "count", "accepted": "flag"} if settings.keep is not None else {}
    return {**tried, **score_kinds(find_scorers(settings.scorer))}


def keep_policy(
    settings: Judged, declared: Sequence[Declaration] | None = None, carried: pa.Schema | None = None
) -> KeepPolicy:
    """The condition and the number of attempts. Raises `UsageError` if they are invalid.

    Args:
        declared: the run's scorers, if they have been found already.
        carried: the carried columns, which a condition may also name.
    """
    scores = score_kinds(find_scorers(settings.scorer) if declared is None else declared)
    if settings.on_nsfw != "keep" and "nsfw" not in scores:
        raise UsageError(f"--on-nsfw {settings.on_nsfw}: needs --scorer nsfw")
    refuse_unused(settings.scorer_model, settings.scorer)
    others = {**column_kinds(carried or ()), **row_kinds(ROW_FIELDS)}
    return KeepPolicy.parse(settings.keep, settings.attempts, settings.best, settings.on_exhausted, scores, others)


def column_kinds(columns: Iterable[pa.Field]) -> dict[str, Kind]:
    """The kinds of the columns that a condition can name."""
    kinds: dict[str, Kind] = {}
    for column in columns:
        plain = column.type.value_type if pt.is_dictionary(column.type) else column.type
        if pt.is_boolean(plain):
            kinds[column.name] = "flag"
        elif pt.is_integer(plain) or pt.is_floating(plain):
            kinds[column.name] = "number"
        elif pt.is_string(plain) or pt.is_large_string(plain):
            kinds[column.name] = "text"
    return kinds


def row_kinds(fields: tuple[Field, ...]) -> dict[str, Kind]:
    """The kinds of the row settings that a condition can name."""
    return {field.name: KINDS[type(field.kind)] for field in fields if type(field.kind) in KINDS}


def scorer_weights(settings: Judged, model: Path) -> dict[str, str]:
    """The hash of each scorer's weights, by its name in `--scorer-model`.

    Raises:
        UsageError: a file or folder does not exist.
    """
    paths = weight_paths(settings.scorer_model)
    if "nsfw" in settings.scorer and (model / "safety_checker").is_dir():
        paths.setdefault("nsfw", model / "safety_checker")
    return {name: weights_hash(path) for name, path in paths.items()}


def judged_engine(
    engine: Any,
    settings: Judged,
    model: Path,
    device: str,
    functions: Mapping[str, Callable[..., Any]],
    carried: pa.Schema | None = None,
) -> Any:
    """Wrap the engine with the run's scorers.

    Args:
        functions: user-defined scorers, as `own_functions` found them where the run was started.
        carried: the carried columns; those that `--keep` names are passed in `CarriedRequest`.

    Raises:
        ModelError: a scorer's weights are missing, or cannot be read.
    """
    given = {name: Path(path).expanduser() for name, path in settings.scorer_model.items()}
    models = Models(given, model, device)
    declared = find_scorers(settings.scorer, functions)
    scorers = [(declaration, declaration.make(models)) for declaration in declared]
    return JudgedEngine(engine, scorers, keep_policy(settings, declared, carried), settings.on_nsfw)
