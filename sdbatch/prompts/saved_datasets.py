"""Folders that `datasets.Dataset.save_to_disk` has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.errors import InputError
from sdbatch.storage.store import Store, StoredFile
from sdbatch.typed_json import read_object

__all__ = ["saved_files"]

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"


def saved_files(
    url: str, found: Sequence[StoredFile], options: Mapping[str, Any] | None = None
) -> list[StoredFile] | None:
    """The files of the data set that was saved in the folder `url`; None if none was.

    Args:
        found: the folder's files. Those that `datasets` keeps there for itself (`cache-….arrow`) are no part of it.

    Raises:
        InputError: it holds several splits, or lacks a file.
        UsageError: `state.json` is damaged.
    """
    files = {file.path.rpartition("/")[2]: file for file in found}
    store = Store(url, options)
    if SPLITS in files:
        splits = read_object(store.read(SPLITS), store.name(SPLITS)).words("splits", missing=())
        named = " or ".join(store.name(split) for split in splits[:5])
        raise InputError(f"{url}: holds a data set of several splits; name one of them: {named or url}")
    if not {STATE, INFO} <= files.keys() and not (STATE in files and any(name.endswith(".arrow") for name in files)):
        return None
    state = read_object(store.read(STATE), store.name(STATE))
    names = [entry.text("filename") for entry in state.objects("_data_files", missing=[])]
    if missing := [name for name in names if name not in files]:
        raise InputError(f"{store.name(missing[0])}: is missing, and {STATE} names it")
    if not names:
        raise InputError(f"{url}: holds a data set without rows")
    return [files[name] for name in names]
