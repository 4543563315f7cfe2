"""Reads an output folder of any layout as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from sdbatch.errors import StorageError, UsageError
from sdbatch.output.encoding import decoded
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import finished_shards
from sdbatch.output.manifest_files import NAME, manifest_id, read_manifest
from sdbatch.output.markers import ShardStats, read_markers
from sdbatch.output.score_tables import ScoreTables
from sdbatch.output.stored import StoredShard, open_shard
from sdbatch.prompts.kept_pictures import kept_type
from sdbatch.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

__all__ = ["Dataset", "decoded_image", "next_image", "open_dataset"]


def open_dataset(url: str, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """Open the finished shards of an output folder.

    Raises:
        UsageError: there is no output, or it has no finished shard yet.
        StorageError: the store cannot be read.
    """
    store = Store(url, storage_options)
    entries = store.entries()
    shards = sorted(finished_shards(entries))
    if shards and NAME not in entries:
        return Dataset(store, shards)
    if not shards or not _has_own(store, shards, run := manifest_id(store)):
        number = len(read_manifest(store).cut)
        raise UsageError(
            f"{store.url}: none of its {number:,} shards is finished yet; `sdbatch generate` with the same arguments "
            "resumes"
        )
    return Dataset(store, shards, (run,))


def _has_own(store: Store, shards: list[int], run: str | None) -> bool:
    """Whether a marker is of this run. One that cannot be read may be."""
    return any(isinstance(stats, StorageError) or stats.run == run for _, stats in read_markers(store, shards))


class Dataset:
    """The images of an output folder and their metadata, failed ones too, in input order.

    Iteration yields a dict per row: the metadata's columns, and the picture in `image` (None if it failed). A column
    `image` of the prompt table is in `input_image`. Input pictures that the output keeps are mappings of bytes and
    path. Scores of `sdbatch score` are also columns.
    Files are read during iteration. Shards whose markers are of another run than run.json are skipped:
    an interrupted overwrite has not removed them yet.

    Args:
        shards: those that have a marker.
        runs: a tuple with the identity of OUT; empty to accept any marker.
    """

    def __init__(self, store: Store, shards: list[int], runs: tuple[str | None, ...] = ()) -> None:
        self.store = store
        self.shards = shards
        self._runs = runs
        self._scores: ScoreTables | None = None

    def __repr__(self) -> str:
        return f"<sdbatch.Dataset {self.store.url}: {len(self.shards):,} shards>"

    def __len__(self) -> int:
        return sum(stats.images for stats in self.markers())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for shard in self.stored_shards():
            images = shard.images()
            rows = python_rows(_without_image(self.metadata_of(shard)))
            for row, kept in zip(rows, shard.kept_pictures(), strict=True):
                row |= kept
                row["image"] = decoded_image(shard, row, next_image(images, shard)) if row["status"] == "ok" else None
                yield row

    def stored_shards(self) -> Iterator[StoredShard]:
        """The shards one by one, for readers of files rather than rows.

        Raises `StorageError` where one has other columns than those before it.
        """
        first: list[str] | None = None
        for stats in self.markers():
            shard = open_shard(self.store, stats.shard)
            names = shard.metadata.column_names
            first = first or names
            if names != first:
                odd = next(iter({*names} ^ {*first}), "in another order")
                raise StorageError(f"{self.store.name(shard.name)}.parquet: has other columns than the rest ({odd!r})")
            yield shard

    def markers(self) -> Iterator[ShardStats]:
        """The markers of the dataset's own shards. Raises `StorageError` if one cannot be read."""
        for _, stats in read_markers(self.store, self.shards):
            if isinstance(stats, StorageError):
                raise stats
            if not self._runs or stats.run in self._runs:
                yield stats

    def metadata_of(self, shard: StoredShard) -> pa.Table:
        """A shard's metadata, with the scores that `sdbatch score` has put beside it."""
        if self._scores is None:
            run = self._runs[0] if self._runs else None
            self._scores = ScoreTables(self.store, run)
        return self._scores.joined(shard)

    def to_pandas(self) -> pd.DataFrame:
        """The metadata of all images, without the pictures."""
        tables = [self.metadata_of(shard) for shard in self.stored_shards()] or [pa.table({})]
        return pa.concat_tables(tables, promote_options="default").to_pandas()

    def to_ray(self) -> ray.data.Dataset:
        """A lazy Ray dataset, one read task per shard: the metadata, and the image files' bytes in `image`.

        Input pictures that the output keeps are structs of bytes and path.
        """
        import ray.data  # only this method needs Ray

        shards = ray.data.from_items([{"shard": shard} for shard in self.shards])
        return shards.map_batches(
            _ReadShard(self.store, self._runs), batch_size=1, batch_format="pyarrow", zero_copy_batch=True
        )


class _ReadShard:
    """Reads the shards of a batch for Ray Data."""

    def __init__(self, store: Store, runs: tuple[str | None, ...]) -> None:
        self._store, self._runs = store, runs

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        dataset = Dataset(self._store, batch.column("shard").to_pylist(), self._runs)
        for shard in dataset.stored_shards():
            images, kept = shard.images(), shard.kept_pictures()
            for piece in _without_image(dataset.metadata_of(shard)).to_batches(max_chunksize=64):
                piece = _with_pictures(piece, list(islice(kept, piece.num_rows)))
                made = [status == "ok" for status in piece.column("status").to_pylist()]
                files = pa.array([next_image(images, shard) if ok else None for ok in made], pa.binary())
                yield pa.Table.from_batches([piece]).append_column("image", files)


def _with_pictures(rows: pa.RecordBatch, kept: list[dict[str, Any]]) -> pa.RecordBatch:
    """The rows with their kept input pictures in place of the paths."""
    for name in kept[0] if kept else ():
        place = rows.schema.get_field_index(name)
        kind = kept_type(rows.schema.field(place).type)
        rows = rows.set_column(place, pa.field(name, kind), pa.array([row[name] for row in kept], kind))
    return rows


def _without_image(metadata: pa.Table) -> pa.Table:
    """The metadata, with the table's own column `image`, if any, renamed to `input_image`."""
    return metadata.rename_columns(["input_image" if name == "image" else name for name in metadata.column_names])


def next_image(images: Iterator[bytes], shard: StoredShard) -> bytes:
    """The next image of a shard. Raises `StorageError` if there is none."""
    for data in images:
        return data
    raise StorageError(f"{shard.store.name(shard.name)}: has fewer images than its metadata")


def decoded_image(shard: StoredShard, row: Mapping[str, Any], data: bytes) -> Image.Image:
    """An image file of a shard, which must have the size in its metadata. Raises `StorageError`."""
    try:
        return decoded(data, (row["width"], row["height"]))
    except ValueError as exc:
        raise StorageError(f"{shard.store.name(shard.name)}: image {row['key']} {exc}") from exc
