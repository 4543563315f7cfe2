"""What an output folder should hold, by its run.json."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sdbatch.errors import UsageError
from sdbatch.storage import Store

__all__ = ["Expected", "read_expected"]

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Expected:
    """The run as run.json has it.

    Attributes:
        shard_rows: rows of each shard, by its number.
        images_per_prompt: images a row.
        layout, image_format: how they are written.
        model, model_hash: what made them.
    """

    shard_rows: tuple[int, ...]
    images_per_prompt: int
    layout: str
    image_format: str
    model: str
    model_hash: str | None

    @property
    def images(self) -> int:
        return sum(self.shard_rows) * self.images_per_prompt


def read_expected(store: Store) -> Expected:
    """Reads run.json.

    Raises:
        UsageError: there is none, or it is damaged.
        StorageError: the store refuses.
    """
    if not store.exists(RUN_FILE):
        raise UsageError(f"{store.url}: has no {RUN_FILE}; is it the output of `sdbatch generate`?")
    try:
        run = json.loads(store.read(RUN_FILE))
        settings, most = run["settings"], run["shard_rows"]
        # Each input file is cut by itself, in order.
        rows = [min(most, file["rows"] - at) for file in run["inputs"] for at in range(0, file["rows"], most)]
        return Expected(
            shard_rows=tuple(rows),
            images_per_prompt=settings["images_per_prompt"],
            layout=settings["layout"],
            image_format=settings["image_format"],
            model=run["model"]["name"],
            model_hash=run["model"]["hash"],
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"{store.name(RUN_FILE)}: is damaged ({exc!r})") from exc
