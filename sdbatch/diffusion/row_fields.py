"""Fields and defaults of rows, from the declarations of families and tasks. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdbatch.diffusion import families
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import UNGUIDED, Declaration
from sdbatch.diffusion.request import COMMON, ROW_FIELDS
from sdbatch.diffusion.tasks import TASKS, Task
from sdbatch.fields import Declares, Field, merged

__all__ = ["FAMILIES", "FamilyDeclaration", "defaults_of", "fields_of", "named_fields", "own_fields"]


@dataclass(frozen=True)
class FamilyDeclaration:
    """A family; the attributes are those of `Declares`."""

    name: str
    fields: Sequence[Field] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    uses: Collection[str] | None = None


def _of_rows(family: Declaration) -> FamilyDeclaration:
    return FamilyDeclaration(family.name, family.fields, _row_defaults(family.defaults, family.fields), family.uses)


def _row_defaults(defaults: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Defaults of row settings, without those of the engine."""
    names = COMMON | {own.name for own in fields}
    return {name: value for name, value in defaults.items() if name in names}


FAMILIES: list[Declares] = [_of_rows(family) for family in families.FAMILIES]


def own_fields() -> tuple[Field, ...]:
    """The fields that only some tasks or families have."""
    return merged([*TASKS, *_known_families()])


def named_fields(task: str, family: str) -> tuple[Field, ...]:
    """The common fields and those of a task and a family, given by their names in manifests."""
    return *ROW_FIELDS, *merged([*_tasks(task), *(known for known in _known_families() if known.name == family)])


def fields_of(task: str, model: ModelInfo | None = None) -> tuple[Field, ...]:
    """The fields that rows of this task on this model can use; without a model, those of the task."""
    declared = [*_tasks(task), *_of_model(model)]
    unused = {name for known in declared if known.uses is not None for name in COMMON - {*known.uses, *UNGUIDED}}
    return *(field for field in ROW_FIELDS if field.name not in unused), *merged(declared)


def defaults_of(task: str, model: ModelInfo) -> dict[str, Any]:
    """The defaults of rows of this task on this model. The task's take precedence over the model's."""
    found = {f.name: f.default_of(model.family) for f in named_fields(task, model.family) if f.name != "prompt"}
    for known in (*_of_model(model), *_tasks(task)):
        defaults = known.defaults_of(model.family) if isinstance(known, Task) else known.defaults
        found |= {name: value for name, value in defaults.items() if name in found}
    return found


def _tasks(name: str) -> list[Declares]:
    return [known for known in TASKS if known.name == name]


def _known_families() -> list[Declares]:
    return [*FAMILIES, *map(_of_rows, families.installed_families())]


def _of_model(model: ModelInfo | None) -> list[Declares]:
    """A family's declaration with the differences of this model, such as fewer steps for a distilled one."""
    if model is None:
        return []
    found = [known for known in _known_families() if known.name == model.family]
    return [_adapted(known, model) for known in found]


def _adapted(known: Declares, model: ModelInfo) -> Declares:
    family = families.family_named(model.family)
    other = {name: value for name, value in model.defaults.items() if family.defaults.get(name) != value}
    uses = known.uses if model.uses == family.uses else model.uses
    defaults = {**known.defaults, **_row_defaults(other, known.fields)}
    return FamilyDeclaration(known.name, known.fields, defaults, uses)
