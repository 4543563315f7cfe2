"""Identifies a scorer's weights by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["weights_hash"]

DOCUMENTATION = (".md",)


def weights_hash(*paths: Path) -> str:
    """SHA-256, in hex, over names and contents of a scorer's files, without documentation and hidden files."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix not in DOCUMENTATION and not file.name.startswith("."):
                name = str(file.relative_to(path)) if path.is_dir() else file.suffix
                digest.update(name.encode() + b"\0")
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
