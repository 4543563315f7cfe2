"""`sdbatch score`: scores an existing output."""

from __future__ import annotations

import sys
from typing import Any

from sdbatch.cli.options import add_field, add_out, command, warn_if_unused
from sdbatch.cli.words import counted, printable
from sdbatch.settings import RUN_FIELDS

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch score out/ --scorer obedience
  sdbatch score s3://bucket/out --scorer clip --scorer-model clip=./clip-vit-large-patch14 --scorer phash
Scores go to OUT/__scores__/, one table per shard; pictures and metadata do not change. Running the same command again
resumes; further scorers add their columns.

exit status: 0 every picture has its scores, 1 some have none (the reasons are listed), 2 bad usage or not an output
"""
FIELDS = {field.name: field for field in RUN_FIELDS}


def add(commands: Any) -> None:
    parser = command(commands, "score", _score, "score the pictures of an existing output", EXAMPLES)
    add_out(parser)
    for name in ("scorer", "scorer_model", "device", "part"):
        add_field(parser, FIELDS[name])
    parser.add_argument(
        "--again", action="store_true", help="replace scores that were made with other weights or another version"
    )


def _score(
    out: str,
    storage_options: dict[str, Any],
    scorer: tuple[str, ...],
    scorer_model: dict[str, str],
    device: str,
    part: tuple[int, int],
    again: bool,
) -> int:
    from sdbatch.output.score_run import score

    def show(report: Any) -> None:
        if sys.stderr.isatty():
            print(f"\r{report.pictures:,} pictures in {counted(report.shards, 'shard')}", end="", file=sys.stderr)

    from sdbatch.output.remake import recorded_places

    # The scorer `nsfw` may read the safety checker of the output's model.
    recorded = recorded_places(out, storage_options) if storage_options and "nsfw" in scorer else ()
    warn_if_unused(storage_options, out, *scorer_model.values(), *recorded)
    report = score(
        out, scorer, models=scorer_model, device=device, part=part, again=again, options=storage_options, progress=show
    )
    print(
        f"{report.pictures:,} pictures in {counted(report.shards, 'shard')} scored; "
        f"{counted(report.skipped, 'shard')} had these scores already"
    )
    for reason, count in report.failures.most_common():
        print(f"  {count:,} without a score: {printable(reason)}")
    return 1 if report.failures else 0
