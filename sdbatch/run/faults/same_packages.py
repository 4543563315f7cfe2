"""Whether a worker's packages declare the settings that the run's rows have."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.row_fields import named_fields
from sdbatch.errors import ModelError

__all__ = ["OtherPackages", "check_declared", "declared"]


class OtherPackages(Exception):
    """This node's packages are not those of the run; another node's may be."""


def declared(task: str, family: str) -> dict[str, str]:
    """The settings that rows of a task have on models of a family, and their kinds, as this installation has them.

    Raises:
        ModelError: this installation does not know the family.
    """
    family_named(family)
    return {field.name: str(field.kind) for field in named_fields(task, family)}


def check_declared(run: Mapping[str, str], task: str, family: str) -> None:
    """Compare what the run's driver has with what this process has.

    Args:
        run: `declared` of the driver.

    Raises:
        OtherPackages: they differ; names the family or the setting.
    """
    advice = "install the same packages on all nodes"
    try:
        own = declared(task, family)
    except ModelError as exc:
        raise OtherPackages(f"this node has no package that provides the model family {family!r}; {advice}") from exc
    differ = sorted({*run.items()} ^ {*own.items()})
    if differ:
        name = differ[0][0]
        kinds = [settings.get(name, "none") for settings in (run, own)]
        raise OtherPackages(
            f"this node's packages declare other settings of family {family!r} than the run's: "
            f"{name!r} is {kinds[1]} here and {kinds[0]} there; {advice}"
        )
