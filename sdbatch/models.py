"""Model sources: a model behind an fsspec URL is fetched once a node; names, folders and hub ids pass through."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from sdbatch.errors import ModelError, StorageError, UsageError
from sdbatch.storage import Store, StoredFile

__all__ = ["fetch_model"]

DEFAULT_CACHE = Path("~/.cache/sdbatch/models")
INDEX = "model_index.json"
MARKER = ".complete"
CONFIGS = (".json", ".txt", ".model")
WEIGHTS = ".safetensors"
# Never read, not even downloaded: unpickling runs whatever code the file holds.
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# Parts of a pipeline that play no role in text-to-image; the checker alone is 1.2 GB.
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
# `model.safetensors`, `model-00001-of-00002.safetensors`; a variant has a dot more: `model.fp16.safetensors`.
NO_VARIANT = re.compile(r"[^.]+\.safetensors")
BLOCK_BYTES = 32 << 20


def fetch_model(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> str:
    """What the engine should open for `model`: the name, folder or hub id itself, or a local copy of a URL.

    A copy is kept under `cache` by the names, sizes and etags of the remote files, so that a model that changes
    is fetched again. Any number of processes may ask at once: one downloads, the others wait for it.

    Args:
        model: `tiny`, a local folder, a hub id, or an fsspec URL of a folder in diffusers' format.
        variant: as diffusers names it (`fp16`): taken where a part has it, the plain weights elsewhere.
        options: fsspec storage options.
        cache: default `~/.cache/sdbatch/models`.

    Raises:
        ModelError: the URL holds no diffusers folder, or one with pickled weights only.
        StorageError: it cannot be read, or the cache cannot be written.
        UsageError: a revision of something that has none.
    """
    if "://" not in model:
        return model
    if revision is not None:
        raise UsageError(f"--revision {revision}: only models of the hub have revisions, {model} has none")
    source = Store(model, options)
    files = dict(_wanted(source, variant))
    entry = (cache or DEFAULT_CACHE).expanduser() / _key(files)
    folder = entry / source.url.rstrip("/").rpartition("/")[2]
    marker = entry / MARKER
    try:
        if not marker.exists():
            entry.mkdir(parents=True, exist_ok=True)
            with FileLock(entry / ".lock"):
                if not marker.exists():
                    for name in files:
                        _download(source, name, folder / name)
                    # Last of all: who sees it may read everything else.
                    marker.write_text(f"{source.url}\n")
    except OSError as exc:
        raise StorageError(f"cannot keep {source.url} in {entry}: {exc.strerror or exc}") from exc
    return str(folder)


def _wanted(source: Store, variant: str | None) -> Iterator[tuple[str, StoredFile]]:
    """The files that a text-to-image engine reads, by their name relative to the model."""
    if not source.exists(INDEX):
        raise ModelError(f"{source.url} holds no {INDEX}; a URL must name a model folder in diffusers' format")
    try:
        parts = json.loads(source.read(INDEX))
    except ValueError as exc:
        raise ModelError(f"{source.name(INDEX)} is not JSON: {exc}") from exc
    yield from ((name, file) for name, file in _listed(source, "") if name == INDEX)
    for part, value in sorted(parts.items()):
        if isinstance(value, list) and any(value) and part not in UNUSED:
            yield from _of_part(source, dict(_listed(source, part)), part, variant)


def _listed(source: Store, part: str) -> Iterator[tuple[str, StoredFile]]:
    for file in Store(source.name(part), source.options).files():
        name = file.path.rpartition("/")[2]
        yield (f"{part}/{name}" if part else name), file


def _of_part(
    source: Store, files: Mapping[str, StoredFile], part: str, variant: str | None
) -> Iterator[tuple[str, StoredFile]]:
    weights = [name for name in files if name.endswith(WEIGHTS)]
    pickles = [name for name in files if name.endswith(PICKLES)]
    if pickles and not weights:
        raise ModelError(f"{source.name(pickles[0])} is pickled, which is never loaded; {part} has no safetensors")
    tagged = re.compile(rf".*\.{re.escape(variant)}[.-].*") if variant else NO_VARIANT
    chosen = [name for name in weights if tagged.fullmatch(name.rpartition("/")[2])]
    chosen = chosen or [name for name in weights if NO_VARIANT.fullmatch(name.rpartition("/")[2])]
    for name, file in files.items():
        if name in chosen or name.endswith(CONFIGS):
            yield name, file


def _key(files: Mapping[str, StoredFile]) -> str:
    listing = sorted((name, file.size, file.stamp) for name, file in files.items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _download(source: Store, name: str, target: Path) -> None:
    """Whole or not at all, so that a download that was cut off goes on with the file that it was at."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with (
        source.mapped("read", name),
        source.open(name, block_size=BLOCK_BYTES) as remote,
        part.open("wb") as local,
    ):
        shutil.copyfileobj(remote, local, BLOCK_BYTES)
    part.replace(target)
