"""The small dataset that most tests of the page use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdbatch.gallery import write_gallery

__all__ = ["PROMPTS", "ROWS", "page_url"]

NAMES = ("prompt", "category", "sampler", "steps", "seed", "negative_prompt", "error")
ROWS: list[dict[str, Any]] = [
    dict(zip(NAMES, row, strict=True))
    for row in [
        ("a red circle", "Shapes", "ddim", 10, 2**62 + 1, "", None),
        ("a blue square, café", "Shapes", "euler", 20, 2**62, "", None),
        ("the red square left of a circle", "Scenes", "euler", 30, 9, "", None),
        ("a green dog", "Animals", "nope", 20, 5, "", "unknown sampler 'nope'"),
        ("a cat", "Animals", "ddim", 100, 7, "dog", None),
        ("", None, "ddim", 10, 10, "", "the prompt is empty"),
    ]
]
PROMPTS = [row["prompt"] or "(no prompt)" for row in ROWS]


def page_url(out: Path, **options: Any) -> str:
    """The address of the gallery of `out`, written now."""
    page = Path(write_gallery(str(out), **options))
    assert page == out / "gallery" / "index.html"
    return page.as_uri()
