"""Verifies that a dataset is reproducible: makes images again from their metadata rows and compares the bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sdbatch.diffusion import Request
from sdbatch.diffusion.request import COMMON
from sdbatch.diffusion.row_fields import named_fields
from sdbatch.errors import StorageError, UsageError
from sdbatch.fields import Field
from sdbatch.model_source import ModelSource, check_recorded
from sdbatch.output.dataset import open_dataset
from sdbatch.output.encoding import encode
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import table_row
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_files import read_manifest
from sdbatch.output.metadata import check_schema
from sdbatch.output.stored import open_shard
from sdbatch.output.watermark import watermarked
from sdbatch.prompts.lora_cells import LoraReader, recorded_loras
from sdbatch.prompts.picture_cells import PictureReader, folder_of, picture_names
from sdbatch.row_networks import finder
from sdbatch.scoring.judged_engine import blurred
from sdbatch.storage.store import Store

__all__ = ["RemakeReport", "recorded_places", "remake", "row_folder"]


@dataclass(frozen=True)
class RemakeReport:
    """The result of making images again.

    Attributes:
        url: the output folder.
        made: number of images that were made again.
        different: keys of images whose file has different bytes.
    """

    url: str
    made: int
    different: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.different


def remake(out: str, count: int, *, model: str | None = None, options: Mapping[str, Any] | None = None) -> RemakeReport:
    """Make `count` random images of an output again, each from its metadata row, in batches of any rows.

    Args:
        model: where the model is now; by default where it was when the output was started.

    Raises:
        UsageError: there is no output, or the model is not the one that made it.
    """
    store = open_dataset(out, options).store
    record = read_manifest(store)
    source = ModelSource.recorded(record.model, options)
    if model is not None:
        source = dataclasses.replace(source, name=model, revision=None)
    info = source.inspect()
    check_recorded(info, record.model, store.url)
    rows = list(_chosen_rows(store, count, record.known_fields()))
    if not rows:
        return RemakeReport(store.url, 0, ())
    if record.engine is None:
        raise UsageError(f"{store.url}: run.json does not record the engine's settings (engine); restore the file")
    from sdbatch.diffusion import Engine  # imports torch only after all other checks

    settings = record.settings
    reader = LoraReader(settings["lora_dir"], options or {}, recorded=recorded_loras(record.networks))
    merged = reader.merged_files(settings["lora"]) if settings["merge_lora"] else ()
    find = finder(record.networks, info, store.url, options) if record.networks else None
    engine = Engine(info, **record.engine.arguments(), merged=merged, find_adapter=find)
    different = []
    for image in engine.generate([_request(row, record, options) for row in rows]):
        row = rows[image.index]
        if image.pixels is None or _digest(_as_written(image.pixels, row, record), row, record) != row["sha256"]:
            different.append(row["key"])
    return RemakeReport(store.url, len(rows), tuple(sorted(different)))


def recorded_places(out: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Where the model of an output and what it uses were: paths, URLs, ids on the hub, and texts that hold them.

    Raises:
        UsageError: there is no output.
    """
    record = read_manifest(Store(out, options))
    networks = [network["source"] for network in record.networks]
    return [*_texts([*record.settings.values(), record.model]), *networks]


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _request(row: Mapping[str, Any], record: RunRecord, options: Mapping[str, Any] | None) -> Request:
    """The request of the row's image. Settings without a column in an older output were the same for the whole run."""
    in_the_row = {field.name: row[field.recorded_as] for field in record.known_fields()}
    of_the_run = {name: record.settings[name] for name in COMMON - in_the_row.keys()}
    own_names = {field.name for field in named_fields(record.settings["task"], record.model["family"])} - COMMON
    extra = {name: record.settings.get(name) for name in own_names} | {
        name: value for name, value in in_the_row.items() if name not in COMMON
    }
    extra = {name: value for name, value in extra.items() if value is not None}
    pictures = PictureReader(picture_names(record.known_fields()), options or {}, may_leave=True)
    recorded = recorded_loras(record.networks)
    loras = LoraReader(record.settings["lora_dir"], options or {}, record.settings["merge_lora"], recorded)
    own = {name: value for name, value in in_the_row.items() if name in COMMON}
    request = Request(**own, **of_the_run, task=record.settings["task"], extra=extra)
    if not pictures.names and extra.get("lora") is None:
        return request
    folder = row_folder(row, record)
    read = loras.read(pictures.read(request, folder), folder)
    return _with_own_size(read, record) if pictures.names else read


def _with_own_size(request: Request, record: RunRecord) -> Request:
    """The request without a height and width that follow from its picture, although the metadata has them.

    With a given size a picture of another shape is cropped; without one it is stretched to whole cells.
    """
    given = {name for name in ("height", "width") if record.settings.get(name) or name in (record.columns or {})}
    return request if given else dataclasses.replace(request, height=None, width=None)


def row_folder(row: Mapping[str, Any], record: RunRecord) -> str:
    """The folder of the row's input file. Raises `StorageError` if run.json has no such row."""
    place, _ = table_row(row["key"], record.cut, record.settings["images_per_prompt"])
    (piece,) = record.cut.pieces(place, 1)
    return folder_of(record.inputs[piece.file]["path"])


def _as_written(pixels: Any, row: Mapping[str, Any], record: RunRecord) -> Any:
    kept = blurred(pixels) if record.settings["on_nsfw"] == "blur" and row.get("nsfw") else pixels
    return watermarked(kept, record.settings["watermark"])


def _digest(pixels: Any, row: Mapping[str, Any], record: RunRecord) -> str:
    settings = record.settings
    labelled = dict(row) | {"model_hash": record.model["hash"]}
    form = settings["image_format"], settings["image_quality"], settings["compression"]
    data = encode(pixels, *form, labelled, record.known_fields())
    return hashlib.sha256(data).hexdigest()


def _chosen_rows(store: Store, count: int, fields: Sequence[Field]) -> Iterator[dict[str, Any]]:
    """Metadata rows of `count` images that are ok, chosen with equal probability."""
    stats = list(open_dataset(store.url, store.options).markers())
    ends = list(accumulate(s.ok for s in stats))
    total = ends[-1] if ends else 0
    places: dict[int, list[int]] = defaultdict(list)
    for image in random.sample(range(total), min(count, total)):
        at = bisect_right(ends, image)
        places[at].append(image - (ends[at] - stats[at].ok))
    for at in sorted(places):
        yield from _ok_rows(store, stats[at].shard, places[at], fields)


def _ok_rows(store: Store, shard: int, places: Sequence[int], fields: Sequence[Field]) -> Iterator[dict[str, Any]]:
    stored = open_shard(store, shard)
    try:
        check_schema(stored.metadata.schema, fields)
    except ValueError as exc:
        raise StorageError(f"{store.name(stored.name)}.parquet: {exc}") from exc
    ok = (
        row | kept
        for row, kept in zip(python_rows(stored.metadata), stored.kept_pictures(), strict=True)
        if row["status"] == "ok"
    )
    wanted = set(places)
    return (row for place, row in enumerate(ok) if place in wanted)
