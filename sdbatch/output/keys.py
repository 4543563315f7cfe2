"""The names of shards and images.

They depend only on the shard's number, never on a table's content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sdbatch.errors import StorageError
from sdbatch.prompts.shards import Cut

__all__ = [
    "EXTENSIONS",
    "SCORES",
    "finished_shards",
    "image_key",
    "is_marker",
    "marker_name",
    "scored_shards",
    "scores_name",
    "shard_name",
    "table_row",
]

EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
SCORES = "__scores__"  # readers of datasets ignore folders whose names begin with underscores
MARKER = re.compile(r"(\d{5,})_stats\.json")
SCORE_TABLE = re.compile(r"([0-9]{5,18})\.parquet")


def shard_name(shard: int) -> str:
    """`00000`: the shard's number in at least five digits."""
    return f"{shard:05d}"


def image_key(shard: int, index: int) -> str:
    """`000000000`: the shard's name, and the image's place in it in four digits."""
    return f"{shard:05d}{index:04d}"


def place_of(key: str) -> tuple[int, int]:
    """The shard of an image, and its place in it; the inverse of `image_key`."""
    return int(key[:-4]), int(key[-4:])


def table_row(key: str, cut: Cut, images_per_prompt: int) -> tuple[int, int]:
    """The row of the whole table that an image was made of, and its number among that row's images.

    Raises:
        StorageError: no shard of the cut has this image: run.json is of another run, or damaged.
    """
    shard, index = place_of(key)
    row, image = divmod(index, images_per_prompt)
    if shard >= len(cut) or row >= cut.span(shard)[1]:
        raise StorageError(f"image {key} is of no row of the inputs in run.json; restore run.json")
    return cut.span(shard)[0] + row, image


def marker_name(shard: int) -> str:
    """The file whose existence means that the shard is finished."""
    return f"{shard:05d}_stats.json"


def is_marker(name: str) -> bool:
    """Whether a file is a marker, by its name."""
    return MARKER.fullmatch(name) is not None


def scores_name(shard: int) -> str:
    """The table that `sdbatch score` writes for a shard."""
    return f"{SCORES}/{shard_name(shard)}.parquet"


def finished_shards(entries: Mapping[str, int]) -> set[int]:
    """The shards whose marker is among the entries (name to size) of an output folder.

    An empty marker is one whose writing was interrupted: its shard is not finished.
    """
    found = set()
    for name, size in entries.items():
        match = MARKER.fullmatch(name)
        if match and size > 0 and marker_name(int(match[1])) == name:
            found.add(int(match[1]))
    return found


def scored_shards(entries: Iterable[str]) -> set[int]:
    """The shards that have a table of scores among the entries of the folder `SCORES`."""
    found = (SCORE_TABLE.fullmatch(name) for name in entries)
    return {int(match[1]) for match in found if match and shard_name(int(match[1])) == match[1]}
