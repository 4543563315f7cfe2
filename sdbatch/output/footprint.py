"""Computes the names of all files that the shards of an output can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.output.keys import EXTENSIONS, MARKER, marker_name, shard_name
from sdbatch.output.metadata import FOLDER_METADATA
from sdbatch.prompts.shards import Cut
from sdbatch.storage.store import Store

__all__ = ["Footprint", "first_clash"]

ENTRY = re.compile(r"(\d{5,})(_stats\.json|\.parquet|\.tar|)")


@dataclass(frozen=True)
class Footprint:
    """The files that an output's shards can have written; no other file belongs to them.

    Attributes:
        cut: which rows each shard holds.
        images_per_prompt: images per row.
        layout, image_format: how they are written.
    """

    cut: Cut
    images_per_prompt: int
    layout: str
    image_format: str

    def shard_of(self, entry: str) -> int | None:
        """The shard that an entry of the output folder belongs to, by its name; None if to none."""
        match = ENTRY.fullmatch(entry.rstrip("/"))
        if match is None or shard_name(int(match[1])) != match[1] or int(match[1]) >= len(self.cut):
            return None
        only_of = {"": "files", ".tar": "webdataset"}
        return int(match[1]) if only_of.get(match[2], self.layout) == self.layout else None

    def is_folder(self, entry: str) -> bool:
        """Whether a shard keeps its pictures in the folder `entry`."""
        return entry.endswith("/") and entry[:-1].isdigit() and self.shard_of(entry) is not None

    def has_in_folder(self, shard: int, name: str) -> bool:
        """Whether shard `shard` can have written a file of this name in its folder."""
        if name == FOLDER_METADATA:
            return True
        key = name.removesuffix(EXTENSIONS[self.image_format])
        prefix = shard_name(shard)
        index = key.removeprefix(prefix)
        if key == name or not key.startswith(prefix) or not re.fullmatch(r"\d{4,}", index):
            return False
        return int(index) < self.images_of(shard) and f"{int(index):04d}" == index

    def images_of(self, shard: int) -> int:
        return self.cut.span(shard)[1] * self.images_per_prompt

    def covers(self, shard: int, other: Footprint) -> bool:
        """Whether this footprint has all files that `other` can have in a shard's folder."""
        same = (self.layout, self.image_format) == (other.layout, other.image_format)
        return same and shard < len(self.cut) and self.images_of(shard) >= other.images_of(shard)

    def to_json(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "image_format": self.image_format,
            "images_per_prompt": self.images_per_prompt,
            "shard_rows": self.cut.rows_per_shard,
            "rows": list(self.cut.file_rows),
            "starts": list(self.cut.starts),
        }


def first_clash(store: Store, entries: Mapping[str, int], new: Footprint, owned: Iterable[Footprint]) -> str | None:
    """The first file of `store` that shards of `new` would overwrite and that belongs to none of `owned`."""
    owned = list(owned)
    for entry in sorted(entries):
        shard = new.shard_of(entry)
        if shard is None:
            continue
        if new.is_folder(entry):
            if any(old.covers(shard, new) for old in owned):
                continue
            holders = [old for old in owned if old.is_folder(entry)]
            for name in sorted(store.entries(entry.rstrip("/"))):
                inner = name.rstrip("/")
                if new.has_in_folder(shard, inner) and not any(old.has_in_folder(shard, inner) for old in holders):
                    return entry + name
        elif not any(old.shard_of(entry) is not None for old in owned):
            return entry
    return None


def is_marker_of(entry: str, footprint: Footprint) -> bool:
    """Whether an entry is the marker of one of the footprint's shards."""
    match = MARKER.fullmatch(entry)
    return match is not None and footprint.shard_of(entry) is not None and marker_name(int(match[1])) == entry
