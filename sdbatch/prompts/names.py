"""Matches columns with settings by name."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.fields import Field

__all__ = ["COMMON", "SIDES", "ambiguous", "candidates", "exact_candidates", "plain", "resembled", "size_column"]

COMMON: Mapping[str, Field] = {field.name: field for field in ROW_FIELDS}
"""The common row settings by name."""

SIDES = ("width", "height")
# A text column `Size` is the one of AUTOMATIC1111's parameters, such as 512x768, if two of these are columns, too.
BESIDE_SIZE = ("steps", "sampler", "guidance_scale")
# English words that resemble a setting's name by chance.
UNLIKE = frozenset({"weight", "speed"})
CLOSE = 0.8


def plain(name: str) -> str:
    """The name in lower case, with spaces and hyphens as underscores."""
    return re.sub(r"[\s_-]+", "_", name.lower()).strip("_")


def exact_candidates(setting: str, columns: Sequence[str], known: Mapping[str, Field] = COMMON) -> list[str]:
    """The columns of a setting by the exact names of sdbatch 0.1.0."""
    exact = [name for name in (setting, *known[setting].exact_aliases) if name in columns]
    if setting == "prompt" and not exact:
        return [name for name in columns if name.lower() == "prompt"]
    return exact


def candidates(setting: str, columns: Sequence[str], known: Mapping[str, Field] = COMMON) -> list[str]:
    """The columns of a setting: the one with exactly its name, otherwise those with similar names.

    More than one means that the table is ambiguous.
    """
    if exact := exact_candidates(setting, columns, known):
        return exact
    names = {plain(name) for name in known[setting].names}
    alike = [column for column in columns if plain(column) in names]
    last = {plain(name) for name in known[setting].last_aliases}
    return alike or [column for column in columns if plain(column) in last]


def size_column(texts: Iterable[str], used: Mapping[str, str]) -> str | None:
    """The column that holds width and height as AUTOMATIC1111 writes them, if no other column has them.

    Args:
        texts: the columns that hold text.
        used: the column of each setting.
    """
    found = [column for column in texts if plain(column) == "size" and column not in used.values()]
    is_parameters = sum(name in used for name in BESIDE_SIZE) > 1
    return found[0] if len(found) == 1 and is_parameters and not used.keys() & set(SIDES) else None


def resembled(column: str, fields: Iterable[Field] = ROW_FIELDS) -> str | None:
    """The setting whose name a carried column resembles, or None."""
    name = re.sub(r"_?\d+$", "", plain(column))
    if name in UNLIKE:
        return None
    known: dict[str, str] = {}
    for names in ("names", "resembling"):
        known |= {plain(other): field.name for field in fields for other in getattr(field, names)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=CLOSE)
    return known[close[0]] if close else None


def ambiguous(setting: str, columns: Sequence[str]) -> str:
    """A message: these columns all set one setting; and what to do."""
    chosen = shlex.quote(f"{setting}={columns[0]}")
    return f"columns {' and '.join(map(repr, columns))} both set {setting}; choose one with --column {chosen}"
