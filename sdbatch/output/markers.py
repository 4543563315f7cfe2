"""The marker of a shard: written last, it makes the shard count as done. It holds the shard's statistics."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sdbatch.errors import StorageError
from sdbatch.output.keys import marker_name
from sdbatch.storage.store import Store

__all__ = ["DamagedMarker", "ShardStats", "count_reasons", "read_marker", "read_markers", "write_marker"]

MAX_BYTES = 16 << 20  # of a marker: a hundred reasons and some notes
MAX_REASONS = 100
MAX_IMAGES = 2**53
MAX_SECONDS = 1e12
OTHER_REASONS = "other reasons"


class DamagedMarker(StorageError):
    """An unreadable marker; its shard counts as not made."""


@dataclass(frozen=True)
class ShardStats:
    """Counts of a finished shard. Only `seconds` and `notes` may differ between equal runs.

    Attributes:
        shard: its number.
        rows: rows of the prompt table.
        images: rows times images per prompt; always ok + failed.
        ok, failed: images that were made, and images that failed.
        reasons: number of failed images by reason.
        seconds: from start to end of the shard.
        notes: special events (lanes halved because memory ran out, …).
        run: the identity of its OUT; None if run.json has none (version 1).
    """

    shard: int
    rows: int
    images: int
    ok: int
    failed: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None

    @property
    def mended_texts(self) -> int:
        """The number of carried texts that were not UTF-8, from the notes."""
        count = self.notes.get("mended_texts", 0)
        return count if _is_count(count) else 0

    def to_json(self) -> bytes:
        values = asdict(self)
        if self.run is None:
            del values["run"]
        return json.dumps(values, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> ShardStats:
        """Read the marker `name`; keys of a newer sdbatch are ignored. Raises `DamagedMarker`."""
        try:
            content = json.loads(data)
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            stats = cls(**{spec.name: _checked(spec.name, content) for spec in fields(cls) if spec.name in content})
            if stats.ok + stats.failed != stats.images:
                raise ValueError(f"{stats.ok} ok and {stats.failed} failed are not {stats.images} images")
            return stats
        except (ValueError, TypeError, RecursionError) as exc:
            reason = " ".join(str(exc).split())[:200]
            raise _damaged(name, reason) from exc


def _damaged(name: str, reason: str) -> DamagedMarker:
    return DamagedMarker(f"{name} is damaged ({reason}); the next run makes its shard again")


def write_marker(store: Store, stats: ShardStats) -> None:
    """Write the marker of a shard, after all its other files. Raises `StorageError`."""
    store.write(marker_name(stats.shard), stats.to_json())
    store.commit()


def read_marker(store: Store, shard: int) -> ShardStats:
    """Read the marker of a shard. Raises `DamagedMarker`, or `StorageError` if it cannot be read."""
    ((_, stats),) = read_markers(store, [shard])
    if isinstance(stats, StorageError):
        raise stats
    return stats


def read_markers(store: Store, shards: Sequence[int]) -> Iterator[tuple[int, ShardStats | StorageError]]:
    """Read the marker of each shard, many at a time; for one that cannot be read, yields the error."""
    names = [marker_name(shard) for shard in shards]
    for shard, name, data in zip(shards, names, store.read_each(names, MAX_BYTES), strict=True):
        try:
            if isinstance(data, StorageError):
                raise _damaged(store.name(name), "it is too large") if _is_too_large(data) else data
            stats = ShardStats.from_json(data, store.name(name))
            if stats.shard != shard:
                raise _damaged(store.name(name), f"it belongs to shard {stats.shard}")
            yield shard, stats
        except StorageError as error:
            yield shard, error


def _is_too_large(error: StorageError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EFBIG


def _checked(name: str, content: Mapping[str, Any]) -> Any:
    value = content[name]
    if name in ("shard", "rows", "images", "ok", "failed"):
        good = _is_count(value)
    elif name == "seconds":
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MAX_SECONDS
    elif name == "reasons":
        good = isinstance(value, dict) and all(_is_count(count) for count in value.values())
    elif name == "run":
        good = value is None or isinstance(value, str)
    else:
        good = isinstance(value, dict) or name != "notes"
    if not good:
        raise ValueError(f"{name} is {json.dumps(value)[:60]}")
    return float(value) if name == "seconds" else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_IMAGES


def count_reasons(errors: Iterable[str]) -> dict[str, int]:
    """The number of failures by reason, most frequent first; reasons beyond 100 are counted together."""
    counted = sorted(Counter(errors).items(), key=lambda item: (-item[1], item[0]))
    kept = dict(counted[:MAX_REASONS])
    if rest := sum(count for _, count in counted[MAX_REASONS:]):
        kept[OTHER_REASONS] = rest
    return kept
