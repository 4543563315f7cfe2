"""How a run reads its prompt table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from sdbatch.kinds import Flag
from sdbatch.option_kinds import Names, Pair
from sdbatch.settings.setting_groups import TABLE, of_the_run, unimportant

__all__ = ["TableSettings"]


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a run reads its prompt table."""

    column: Annotated[
        Mapping[str, str],
        of_the_run(
            Names(),
            "read the setting NAME (such as prompt) from COLUMN; "
            "NAME= carries a column of that name instead of using it; repeatable",
            TABLE,
            metavar="NAME=COLUMN",
        ),
    ] = field(default_factory=dict)
    rename_input: Annotated[
        bool,
        of_the_run(Flag(), "carry columns that have names of the output's columns as input_NAME", TABLE, before=False),
    ] = False
    prompt_per_file: Annotated[
        bool,
        of_the_run(
            Flag(), "each .txt file of PROMPTS is one prompt, and its name is carried as id", TABLE, before=False
        ),
    ] = False
    part: Annotated[
        tuple[int, int],
        unimportant(
            Pair("/", "I/N with 1 ≤ I ≤ N", "1/4"),
            "process only the I-th of N parts of the shards, for N jobs on one OUT",
            TABLE,
            metavar="I/N",
        ),
    ] = (1, 1)
    allow_image_urls: Annotated[
        bool,
        unimportant(Flag(), "let cells name pictures by web URLs and absolute paths", TABLE),
    ] = False
