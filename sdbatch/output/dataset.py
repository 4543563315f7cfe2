"""An output folder read back as a dataset, whatever its layout."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from sdbatch.errors import StorageError, UsageError
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import finished_shards, marker_name
from sdbatch.output.stats import ShardStats
from sdbatch.output.stored import StoredShard, open_shard
from sdbatch.storage import Store

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

__all__ = ["Dataset", "open_dataset"]


def open_dataset(url: str, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """The finished shards of an output folder.

    Raises:
        UsageError: there is no finished shard.
        StorageError: the store refuses.
    """
    store = Store(url, storage_options)
    shards = sorted(finished_shards(store.entries()))
    if not shards:
        raise UsageError(f"{store.url}: no finished shard in it; is it the output of `sdbatch generate`?")
    return Dataset(store, shards)


class Dataset:
    """The images of an output folder and their metadata, failed ones too, in input order.

    Iterating gives a dict a row: the metadata's columns, and the picture in `image` (None if it failed).
    Files are read as the iteration comes to them.
    """

    def __init__(self, store: Store, shards: list[int]) -> None:
        self.store = store
        self.shards = shards

    def __repr__(self) -> str:
        return f"<sdbatch.Dataset {self.store.url}: {len(self.shards):,} shards>"

    def __len__(self) -> int:
        names = [marker_name(shard) for shard in self.shards]
        markers = zip(names, self.store.read_many(names), strict=True)
        return sum(ShardStats.from_json(data, self.store.name(name)).images for name, data in markers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for shard in self.stored_shards():
            images = shard.images()
            for row in python_rows(shard.metadata):
                row["image"] = _decoded(shard, row, _next(images, shard)) if row["status"] == "ok" else None
                yield row

    def stored_shards(self) -> Iterator[StoredShard]:
        """The shards one by one, for readers that want their files rather than their rows."""
        return (open_shard(self.store, shard) for shard in self.shards)

    def to_pandas(self) -> pd.DataFrame:
        """The metadata of all images, without the pictures."""
        return pa.concat_tables([shard.metadata for shard in self.stored_shards()]).to_pandas()

    def to_ray(self) -> ray.data.Dataset:
        """A lazy Ray dataset, a read task a shard: the metadata, and the image files' bytes in `image`."""
        import ray.data  # only who asks for it needs Ray

        shards = ray.data.from_items([{"shard": shard} for shard in self.shards])
        return shards.map_batches(_ReadShard(self.store), batch_size=1, batch_format="pyarrow", zero_copy_batch=True)


class _ReadShard:
    """Reads the shards of a batch for Ray Data."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch.column("shard").to_pylist():
            shard = open_shard(self._store, number)
            images = shard.images()
            for piece in shard.metadata.to_batches(max_chunksize=64):
                made = [status == "ok" for status in piece.column("status").to_pylist()]
                files = pa.array([_next(images, shard) if ok else None for ok in made], pa.binary())
                yield pa.Table.from_batches([piece]).append_column("image", files)


def _next(images: Iterator[bytes], shard: StoredShard) -> bytes:
    for data in images:
        return data
    raise StorageError(f"{shard.store.name(shard.name)}: has fewer images than its metadata")


def _decoded(shard: StoredShard, row: Mapping[str, Any], data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, Image.DecompressionBombError) as exc:
        raise StorageError(f"{shard.store.name(shard.name)}: image {row['key']} does not decode") from exc
    return image
