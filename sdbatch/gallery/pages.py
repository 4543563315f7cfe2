"""Writes the gallery: a folder `OUT/gallery` with a page that shows the dataset, from a disk or any web server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from PIL import Image

from sdbatch.gallery.literals import call
from sdbatch.gallery.ownership import COPIES, FOLDER, INPUTS, claim_gallery, page_files
from sdbatch.gallery.source import Source, SourceRow
from sdbatch.output.parameters import parameters
from sdbatch.storage.store import Store

__all__ = ["write_gallery"]

ROWS_PER_FILE = 1000
HELD_BYTES = 512 << 20  # of pictures at a time
MAX_INPUT_SIDE = 512  # pixels per side
WRITERS = 16


def write_gallery(out: str, *, limit: int = 50_000, options: Mapping[str, Any] | None = None) -> str:
    """Write the gallery of the dataset at `out`, replacing an earlier one, and return its page's URL.

    The page shows the first `limit` rows. It links to pictures that are files; pictures in Parquet or tar files are
    copied into the gallery. Nothing else in `out` changes; the gallery may be deleted.

    Raises:
        UsageError: `out` is not the output of a run, or has a `gallery` that sdbatch did not write.
        StorageError: the store failed, or a file of the dataset is missing or damaged.
    """
    source = Source(out, options)
    claim_gallery(source.store)
    rows = source.rows()
    counts = {"ok": 0, "failed": 0}
    written = 0
    inputs: dict[str, str | None] = {}
    with ThreadPoolExecutor(WRITERS) as pool:
        for chunk in _chunks(islice(rows, limit)):
            copies = [
                pool.submit(source.store.write, f"{FOLDER}/{_copy_name(source, row)}", row.contained)
                for row in chunk
                if row.contained is not None
            ]
            inputs.update(_write_inputs(source, chunk, inputs, pool))
            source.store.write(f"{FOLDER}/data/rows-{written}.js", call("addRows", _columns(source, chunk, inputs)))
            for copy in copies:
                copy.result()
            source.store.commit(when_due=True)
            for row in chunk:
                counts[row.values["status"]] += 1
            written += 1
    run = {"name": source.name, "model": source.model, **counts, "files": written}
    run["more"] = next(rows, None) is not None
    source.store.write(f"{FOLDER}/data/run.js", call("openGallery", run))
    return _write_page(source.store)


def _chunks(rows: Iterable[SourceRow]) -> Iterator[list[SourceRow]]:
    """The rows of each file of the page; fewer if they hold large pictures."""
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += row.size
        if len(chunk) == ROWS_PER_FILE or size >= HELD_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write_inputs(
    source: Source, chunk: list[SourceRow], known: Mapping[str, str | None], pool: ThreadPoolExecutor
) -> dict[str, str | None]:
    """Write small copies of input pictures; returns their names by hash, None for pictures that no longer exist."""
    digests = ((row, row.values.get("input_image_sha256")) for row in chunk)
    new = {digest: row for row, digest in digests if digest and digest not in known}
    names = pool.map(lambda item: _write_input(source, *item), new.items())
    return dict(zip(new, names, strict=True))


def _write_input(source: Source, digest: str, row: SourceRow) -> str | None:
    picture = source.input(row)
    if picture is None:
        return None
    picture.thumbnail((MAX_INPUT_SIDE, MAX_INPUT_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    name = f"{INPUTS}/{digest}.jpg"
    source.store.write(f"{FOLDER}/{name}", file.getvalue())
    return name


def _columns(source: Source, chunk: list[SourceRow], inputs: Mapping[str, str | None]) -> list[tuple[str, list[Any]]]:
    """The rows as columns, plus the picture, its parameters as other viewers show them, and its input picture."""
    columns = [(name, [_cell(row.values[name]) for row in chunk]) for name in chunk[0].values]
    columns.append(("picture", [_picture(source, row) for row in chunk]))
    columns.append(("parameters", [_parameters(source, row) for row in chunk]))
    if inputs:
        columns.append(("started_from", [inputs.get(row.values.get("input_image_sha256") or "") for row in chunk]))
    return columns


def _cell(value: Any) -> Any:
    """A metadata value for the page to sort and filter: nested values become text."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _picture(source: Source, row: SourceRow) -> str | None:
    """The picture's address, relative to the page."""
    if row.contained is not None:
        return _copy_name(source, row)
    file_name = row.values.get("file_name")
    return f"../{file_name}" if file_name else None


def _parameters(source: Source, row: SourceRow) -> str | None:
    made = row.values["status"] == "ok"
    return parameters({**row.values, "model_hash": source.model_hash}, source.fields) if made else None


def _copy_name(source: Source, row: SourceRow) -> str:
    key = row.values["key"]
    return f"{COPIES}/{key[:-4]}/{key}{source.extension}"


def _write_page(store: Store) -> str:
    page = page_files()
    # The page itself is written last: if it exists, all its files exist.
    for name in sorted(page, key=lambda name: (name == "index.html", name)):
        store.write(f"{FOLDER}/{name}", page[name])
    store.commit()
    return store.name(f"{FOLDER}/index.html")
