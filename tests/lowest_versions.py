"""Prints constraints for pip: the lowest versions that pyproject.toml allows, and the newest fixes of each.

torch is left out: a release other than the pinned one is a download of gigabytes.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    for requirement in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]:
        name, version = re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement).groups()
        if name != "torch":
            print(f"{name}=={version}.*")


if __name__ == "__main__":
    main()
