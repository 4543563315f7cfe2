"""The commands for an existing output: status, verify, gallery, sheet."""

from __future__ import annotations

from typing import Any

from sdbatch.bounds import Whole
from sdbatch.cli.options import add_out, command, numeric, warn_if_unused
from sdbatch.cli.words import counted, printable

__all__ = ["add"]

SAMPLE = Whole(1, 10**9)
REMAKE = Whole(0, 10**6)
LIMIT = Whole(1, 10**8)
COLUMNS = Whole(1, 60)
IN_CELLS = "URLs of input pictures"
STATUS_EXIT = "exit status: 0 all done and ok, 1 something is missing or failed, 2 not an output"
VERIFY_EXIT = """\
examples:
  sdbatch verify out/                          every image against its metadata
  sdbatch verify s3://bucket/out --sample 50   50 shards, chosen at random
  sdbatch verify out/ --repair                 let generate make the bad shards again
  sdbatch verify out/ --remake 10              make 10 images again and compare their bytes

exit status: 0 all correct, 1 some shards are bad (they are listed), 2 not an output
"""
GALLERY_EXAMPLES = """\
example:
  sdbatch gallery out/        then open out/gallery/index.html, from disk or any web server
"""
SHEET_EXAMPLES = """\
example:
  sdbatch sheet out/ sheet.png --columns 8
"""


def add(commands: Any) -> None:
    status = command(commands, "status", _status, "show what is done, missing and failed", STATUS_EXIT)
    add_out(status)
    verify = command(commands, "verify", _verify, "check every image of an output against its metadata", VERIFY_EXIT)
    add_out(verify)
    sample = numeric("--sample", SAMPLE)
    verify.add_argument("--sample", type=sample, metavar="N", help="check only N shards, chosen at random")
    verify.add_argument(
        "--repair", action="store_true", help="remove the markers of bad shards, so that generate makes them again"
    )
    remake = numeric("--remake", REMAKE)
    verify.add_argument(
        "--remake", type=remake, default=0, metavar="N",
        help="make N random images again from their metadata rows, and compare the bytes",
    )  # fmt: skip
    verify.add_argument("--model", metavar="NAME|DIR", help="for --remake, if the model has moved")
    gallery = command(
        commands, "gallery", _gallery, "make a page to browse, search and filter an output", GALLERY_EXAMPLES
    )
    add_out(gallery)
    limit = numeric("--limit", LIMIT)
    gallery.add_argument(
        "--limit", type=limit, default=50_000, metavar="N", help="maximum number of rows; default %(default)s"
    )
    sheet = command(
        commands, "sheet", _sheet, "draw a contact sheet of an output, prompts under the pictures", SHEET_EXAMPLES
    )
    add_out(sheet)
    sheet.add_argument("path", metavar="PATH", help="the PNG to write")
    columns = numeric("--columns", COLUMNS)
    sheet.add_argument("--columns", type=columns, default=6, metavar="N", help="default %(default)s")


def _status(out: str, storage_options: dict[str, Any]) -> int:
    from sdbatch.output.status import status

    warn_if_unused(storage_options, out)
    state = status(out, storage_options)
    print(
        f"{printable(state.url)}: {state.done:,} of {state.shards:,} shards done, "
        f"{state.ok + state.failed:,} of {state.images:,} images: {state.ok:,} ok, {state.failed:,} failed"
    )
    for reason, count in state.reasons.items():
        print(f"  {count:,} failed: {printable(reason)}")
    for problem in state.damaged:
        print(f"  {printable(problem)}")
    return 1 if state.failed or not state.complete else 0


def _verify(
    out: str, sample: int | None, repair: bool, remake: int, model: str | None, storage_options: dict[str, Any]
) -> int:
    from sdbatch.errors import UsageError
    from sdbatch.output.remake import recorded_places
    from sdbatch.output.verify import verify

    if model is not None and not remake:
        raise UsageError(f"--model {model}: requires --remake")
    if remake and storage_options:  # the model of an output can be in a store
        warn_if_unused(storage_options, out, model, *recorded_places(out, storage_options), besides=IN_CELLS)
    else:
        warn_if_unused(storage_options, out)
    report = verify(out, storage_options, sample=sample, repair=repair)
    for shard, problems in report.bad.items():
        for problem in problems:
            print(f"shard {shard:05d}: {printable(problem)}")
    for name in report.surplus:
        print(f"{printable(name)} belongs to no shard of this run")
    print(
        f"{printable(report.url)}: {counted(report.images, 'image')} in {counted(report.shards, 'shard')} checked, "
        f"{len(report.bad):,} bad, {report.unfinished:,} not finished"
    )
    if report.repaired:
        print(f"{len(report.repaired):,} markers removed; run generate again to remake these shards")
    if not remake:
        return 0 if report.ok else 1
    from sdbatch.output.remake import remake as make_again

    again = make_again(out, remake, model=model, options=storage_options)
    for key in again.different:
        print(f"image {key}: made again, its bytes differ")
    print(f"{counted(again.made, 'image')} made again from their metadata, {len(again.different):,} of them different")
    return 0 if report.ok and again.ok else 1


def _gallery(out: str, limit: int, storage_options: dict[str, Any]) -> int:
    from sdbatch.gallery import write_gallery

    warn_if_unused(storage_options, out, besides=IN_CELLS)
    print(f"the gallery is {printable(write_gallery(out, limit=limit, options=storage_options))}")
    return 0


def _sheet(out: str, path: str, columns: int, storage_options: dict[str, Any]) -> int:
    from sdbatch.gallery import write_sheet

    warn_if_unused(storage_options, out, path, besides=IN_CELLS)
    write_sheet(out, path, columns=columns, options=storage_options)
    print(f"the contact sheet is {printable(path)}")
    return 0
