"""Which pictures a run keeps, and how often it retries a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from sdbatch.bounds import Whole
from sdbatch.kinds import Choice, Text
from sdbatch.option_kinds import Names, Words
from sdbatch.scoring.attempts import ON_EXHAUSTED, ON_NSFW
from sdbatch.settings.setting_groups import SCORES, of_the_run, unimportant

__all__ = ["ScoreSettings"]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Which pictures a run keeps, and how often it retries a row."""

    scorer: Annotated[
        tuple[str, ...],
        of_the_run(
            Words(),
            "score each finished picture with: clip, aesthetic, nsfw, phash, sharpness, entropy, obedience, "
            "or your own module:function; repeatable",
            SCORES,
            metavar="NAME",
            before=(),
        ),
    ] = ()
    scorer_model: Annotated[
        Mapping[str, str],
        unimportant(Names(), "folder or file of a scorer's weights; repeatable", SCORES, metavar="NAME=PATH"),
    ] = field(default_factory=dict)
    keep: Annotated[
        str | None,
        of_the_run(
            Text(),
            "keep a picture only if this condition holds, such as 'clip >= 0.27 and not nsfw'",
            SCORES,
            metavar="CONDITION",
            before=None,
        ),
    ] = None
    attempts: Annotated[
        int,
        of_the_run(
            Whole(1, 1_000),
            "maximum number of pictures to make per row until one is kept",
            SCORES,
            metavar="K",
            before=1,
        ),
    ] = 1
    best: Annotated[
        str | None,
        of_the_run(
            Text(),
            "score that selects the best attempt of a row if none is kept; default: the first in --keep",
            SCORES,
            metavar="SCORE",
            before=None,
        ),
    ] = None
    on_exhausted: Annotated[
        str,
        of_the_run(
            Choice(ON_EXHAUSTED),
            "if no picture of a row is kept: use the best, or fail",
            SCORES,
            before=ON_EXHAUSTED[0],
        ),
    ] = ON_EXHAUSTED[0]
    on_nsfw: Annotated[
        str,
        of_the_run(Choice(ON_NSFW), "what to do with a flagged picture", SCORES, before=ON_NSFW[0]),
    ] = ON_NSFW[0]
