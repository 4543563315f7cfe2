"""`sdbatch export`: writes selected images of an output for other tools."""

from __future__ import annotations

from typing import Any

from sdbatch.cli.options import add_out, command, warn_if_unused
from sdbatch.cli.words import counted, printable

__all__ = ["add"]

FORMS = ("imagefolder", "webdataset", "geneval", "dpg-bench", "hpsv2", "t2i-compbench")
EXAMPLES = """\
examples:
  sdbatch export out/ chosen/ --where "accepted and aesthetic > 5.5" --dedup phash
  sdbatch export out/ evaluated/ --for geneval
Files are hard links if both folders are on one disk, and copies otherwise. Running the same command again resumes.
Scores of `sdbatch score` are also columns.

exit status: 0 all selected images are written, 1 some could not be written in this form, 2 bad usage or not an output
"""


def add(commands: Any) -> None:
    parser = command(commands, "export", _export, "write selected images of an output for another tool", EXAMPLES)
    add_out(parser)
    parser.add_argument("dest", metavar="DEST", help="the folder or URL to fill, empty or from the same export")
    parser.add_argument(
        "--for", dest="form", choices=FORMS, default="imagefolder", help="format of DEST; default %(default)s"
    )
    parser.add_argument("--where", metavar="CONDITION", help="select by columns and scores, as in --keep of generate")
    parser.add_argument(
        "--dedup",
        metavar="COLUMN",
        help="write only the first of images with the same value in this column, such as phash",
    )
    parser.add_argument(
        "--id",
        dest="id_column",
        metavar="COLUMN",
        help="the column that names the items of dpg-bench, or the styles of hpsv2",
    )


def _export(
    out: str,
    dest: str,
    form: str,
    where: str | None,
    dedup: str | None,
    id_column: str | None,
    storage_options: dict[str, Any],
) -> int:
    from sdbatch.output.export import export

    warn_if_unused(storage_options, out, dest)
    report = export(out, dest, form=form, where=where, dedup=dedup, id_column=id_column, options=storage_options)
    print(
        f"{report.chosen - report.duplicates:,} of {counted(report.images, 'image')} chosen"
        + (f", {counted(report.duplicates, 'duplicate')} left out" if dedup else "")
        + f"; {counted(report.written, _WRITTEN[form])} written to {printable(dest)}"
    )
    for reason in report.left_out:
        print(f"  {printable(reason)}")
    return 1 if report.left_out else 0


_WRITTEN = dict.fromkeys(FORMS, "file") | {"imagefolder": "folder", "webdataset": "tar", "geneval": "folder"}
