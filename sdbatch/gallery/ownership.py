"""Identifies the files of a folder `gallery` that sdbatch has written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from sdbatch.errors import UsageError
from sdbatch.storage.store import Store

__all__ = ["COPIES", "FOLDER", "INPUTS", "claim_gallery", "page_files", "remove_gallery"]

FOLDER = "gallery"
PROOF = "sdbatch.json"
# Hugging Face datasets reads images in all folders except those starting with two underscores:
# the copies must not become rows of the dataset.
COPIES = "__images"
DATA = re.compile(r"(rows-\d+|run)\.js")
COPY = re.compile(r"\d{9,}\.(png|jpg|webp)")
SHARD = re.compile(r"\d{5,}/")
# Small copies of input pictures, by the hash of their files.
INPUTS = f"{COPIES}/inputs"
INPUT = re.compile(r"[0-9a-f]{64}\.jpg")
# The first word of data/run.js, which identifies galleries of versions without the proof file.
CALL = b"openGallery("


def claim_gallery(store: Store) -> None:
    """Remove an earlier gallery of `store`, and write the proof that the new one is sdbatch's.

    Raises:
        UsageError: there are files with a gallery's names that sdbatch did not write; the message names the first.
    """
    if not _is_ours(store) and (name := next(_names(store), None)):
        raise UsageError(
            f"{store.name(name)} was not made by sdbatch, and the gallery would overwrite it; move it away"
        )
    _remove_files(store)
    store.write(f"{FOLDER}/{PROOF}", b'{"made_by": "sdbatch gallery"}\n')


def remove_gallery(store: Store) -> None:
    """Remove the gallery that sdbatch wrote in `store`, if any; other files stay. The proof is removed last."""
    if not _is_ours(store):
        return
    names = _remove_files(store)
    folders = sorted({name.rpartition("/")[0] for name in names} - {FOLDER})
    store.remove_many([f"{FOLDER}/{PROOF}"])
    for folder in [*folders, f"{FOLDER}/{COPIES}", FOLDER]:
        store.remove_folder(folder)


def _remove_files(store: Store) -> list[str]:
    """Remove the files but not their folders, which may be a process's working directory; returns the files' names."""
    names = list(_names(store))
    folders = {name.rpartition("/")[0] for name in names}
    for folder in sorted({FOLDER, f"{FOLDER}/data", f"{FOLDER}/{COPIES}", *folders}):
        store.remove_link(folder)
    store.remove_many(names)
    return names


def page_files() -> dict[str, bytes]:
    """The files of the page itself, by name."""
    return {file.name: file.read_bytes() for file in files("sdbatch.gallery").joinpath("page").iterdir()}


def _is_ours(store: Store) -> bool:
    if store.exists(f"{FOLDER}/{PROOF}"):
        return b"sdbatch gallery" in store.read(f"{FOLDER}/{PROOF}")
    run = f"{FOLDER}/data/run.js"
    return store.exists(run) and CALL in store.head(run, 200)


def _names(store: Store) -> Iterator[str]:
    """The existing files with names of a gallery's files, except the proof."""
    page = page_files()
    yield from (f"{FOLDER}/{name}" for name in store.entries(FOLDER) if name in page)
    yield from (f"{FOLDER}/data/{name}" for name in store.entries(f"{FOLDER}/data") if DATA.fullmatch(name))
    inputs = store.entries(f"{FOLDER}/{INPUTS}")
    yield from (f"{FOLDER}/{INPUTS}/{name}" for name in inputs if INPUT.fullmatch(name))
    for shard in store.entries(f"{FOLDER}/{COPIES}"):
        if SHARD.fullmatch(shard):
            folder = f"{FOLDER}/{COPIES}/{shard.rstrip('/')}"
            yield from (f"{folder}/{name}" for name in store.entries(folder) if COPY.fullmatch(name))
