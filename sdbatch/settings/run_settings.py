"""`RunSettings`: all settings of a run, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.diffusion.row_fields import own_fields
from sdbatch.errors import UnknownOptionError, UsageError
from sdbatch.fields import Field, FrozenMapping, declared_in, with_plain_signature
from sdbatch.option_kinds import Options
from sdbatch.settings.adapter_settings import AdapterSettings
from sdbatch.settings.model_settings import ModelSettings
from sdbatch.settings.output_settings import OutputSettings
from sdbatch.settings.score_settings import ScoreSettings
from sdbatch.settings.setting_groups import did_you_mean
from sdbatch.settings.table_settings import TableSettings
from sdbatch.settings.worker_settings import WorkerSettings

__all__ = ["NUMBERS", "ROW_OPTIONS", "RUN_FIELDS", "RunSettings", "all_fields"]


# A dataclass takes the attributes of its last base first.
@with_plain_signature
@dataclass(frozen=True, kw_only=True)
class RunSettings(WorkerSettings, ScoreSettings, AdapterSettings, OutputSettings, TableSettings, ModelSettings):
    """The settings of one run. Attribute names are the command line's options, with underscores.

    Its own attributes hold defaults for rows; None means not given, and is resolved by the defaults of the model's
    family when the run is planned. `extra` holds defaults for settings that only one task or one family has.

    Raises:
        UsageError: an invalid value; the message names the option.
    """

    sampler: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    guidance_start: float | None = None
    guidance_stop: float | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = FrozenMapping()

    def __post_init__(self) -> None:
        for setting in RUN_FIELDS:
            value = getattr(self, setting.name)
            if value == "":
                raise UsageError(f"{setting.option} is empty; leave it out")
            if value is not None or setting.default is not None:
                object.__setattr__(self, setting.name, setting.checked(value))
        for setting in ROW_OPTIONS:
            value = getattr(self, setting.name)
            if value is not None:
                object.__setattr__(self, setting.name, setting.checked(value))
        object.__setattr__(self, "extra", _checked_extra(self.extra))
        start, stop = (self.value(name) for name in ("guidance_start", "guidance_stop"))
        if not start < stop:
            interval = f"--guidance-start {start} --guidance-stop {stop}"
            raise UsageError(f"{interval}: expected two shares, 0 ≤ start < stop ≤ 1")
        if self.lanes is not None and self.lanes % 2:
            raise UsageError(f"--lanes {self.lanes}: must be even, since a row with guidance takes two")
        gpus = self.gpus_per_actor
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise UsageError(f"--gpus-per-actor {gpus}: more than one GPU must be a whole number of them")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> RunSettings:
        """Make settings from a mapping (keyword arguments, a config file).

        Raises:
            UnknownOptionError: an unknown name.
            UsageError: an invalid value.
        """
        attributes = {attribute.name for attribute in dataclasses.fields(cls)}
        extra = dict(options.get("extra") or {})
        extra |= {setting.name: options[setting.name] for setting in own_fields() if setting.name in options}
        if unknown := sorted(set(options) - attributes - set(extra)):
            known = sorted(attributes | {setting.name for setting in own_fields()})
            raise UnknownOptionError(f"unknown option {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        given = {name: value for name, value in options.items() if name in attributes}
        return cls(**given | {"extra": extra})

    def given(self, name: str) -> Any:
        """The user's value of a row setting; None if not given."""
        return getattr(self, name) if name in _ROW_NAMES else self.extra.get(name)

    def value(self, name: str) -> Any:
        """The value of a setting that is an attribute; if it is not given, the declared default."""
        given = getattr(self, name)
        return _DEFAULTS[name] if given is None else given


RUN_FIELDS = declared_in(RunSettings)
"""The settings that are the same for all rows of a run."""
ROW_OPTIONS = tuple(setting for setting in ROW_FIELDS if setting.name != "prompt")
"""The settings of all rows for which a run can set a default."""
_ROW_NAMES = frozenset(setting.name for setting in ROW_OPTIONS)
_DEFAULTS = {setting.name: setting.effective_default for setting in (*ROW_OPTIONS, *RUN_FIELDS)}

NUMBERS: Mapping[str, Whole | Number] = {
    setting.name: setting.kind for setting in (*ROW_OPTIONS, *RUN_FIELDS) if isinstance(setting.kind, Whole | Number)
}
"""The bounds of each numeric setting."""


def all_fields() -> tuple[Field, ...]:
    """All settings with an option: of rows, of the run, of single tasks and families.

    Raises:
        ValueError: a task or a family declares a name that is already used.
    """
    own = own_fields()
    taken = {attribute.name for attribute in dataclasses.fields(RunSettings)} | {"prompt", "prompts", "out"}
    if clash := next((setting.name for setting in own if setting.name in taken), None):
        raise ValueError(f"a task or a family declares {clash!r}, which is a setting of all runs")
    return (*ROW_OPTIONS, *own, *RUN_FIELDS)


def _checked_extra(extra: Any) -> FrozenMapping:
    known = {setting.name: setting for setting in own_fields()}
    for name in Options().check("extra", extra):
        if name not in known:
            raise UnknownOptionError(f"unknown option {name!r}{did_you_mean(name, sorted(known))}")
    given = {name: value for name, value in extra.items() if value is not None}
    return FrozenMapping({name: known[name].checked(value) for name, value in given.items()})
