"""Reports unexpected errors: one line for the user, and a file with the traceback."""

from __future__ import annotations

import platform
import tempfile
import traceback

from sdbatch.errors import in_one_line
from sdbatch.version import __version__

__all__ = ["report_unexpected"]


def report_unexpected(exc: BaseException) -> str:
    """The message for a bug in sdbatch; its traceback is written to a file.

    The file holds no options and no arguments, since these may be secret.
    """
    what = in_one_line(exc)[:200]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sdbatch-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"sdbatch {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n")
            file.writelines(traceback.format_exception(exc))
    except OSError as error:
        return f"unexpected error ({what}); its traceback could not be written: {error.strerror or error}"
    return f"unexpected error ({what}); please report it with {file.name}"
