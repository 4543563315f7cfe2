"""Networks that rows name, such as ControlNets: finds them, checks them against the model, and hashes them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbatch.diffusion.adapters.net_folders import NET_FILES
from sdbatch.diffusion.adapters.net_kinds import NET_KINDS
from sdbatch.diffusion.checkpoints.file_hashes import content_hash
from sdbatch.diffusion.checkpoints.hub import commit_of
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.errors import AdapterError, RunError
from sdbatch.model_source import MODELS
from sdbatch.storage.local_copies import copied
from sdbatch.storage.store import Store, StoredFile

__all__ = ["Network", "finder", "inspect_network"]


@dataclass(frozen=True)
class Network:
    """A network that rows name.

    Attributes:
        setting: the setting that names it, such as `controlnet`.
        name: its name in the rows.
        source: its location: an absolute path, a URL, or an id on the hub.
        commit: its commit on the hub; otherwise empty.
        sha256: SHA-256 over its configuration and weights.
        modes: the number of modes of a ControlNet Union; 0 for other networks.
    """

    setting: str
    name: str
    source: str
    commit: str
    sha256: str
    modes: int = 0

    def entry(self) -> dict[str, str]:
        """Its entry in a manifest."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "modes"}


def inspect_network(setting: str, name: str, info: ModelInfo, options: Mapping[str, Any] | None = None) -> Network:
    """Fetch a network to this machine if needed, and read its configuration and its weights' headers.

    Args:
        setting: the setting that names it, such as `controlnet`.
        options: fsspec storage options.

    Raises:
        AdapterError: it does not exist, or the model cannot use it.
        StorageError: its URL cannot be read.
    """
    place = _fetched(setting, name, "", options)
    on_hub = "://" not in name and not os.path.exists(name)
    source = name if on_hub or "://" in name else str(place.absolute())
    kind = NET_KINDS[setting]
    found = kind.inspect(place, info)
    commit = commit_of(place) if on_hub else ""
    return Network(setting, name, source, commit, content_hash(found.files), kind.modes(found))


def finder(
    networks: Iterable[Mapping[str, str]], info: ModelInfo, where: str, options: Mapping[str, Any] | None = None
) -> Callable[[str], Path]:
    """A function that returns the local path of an output's network, and checks that it has not changed.

    Args:
        networks: the manifest's entries.
        where: the output's URL.

    The function raises `RunError` for a network that differs from the recorded one.
    """
    entries = {entry["name"]: entry for entry in networks}

    def find(name: str) -> Path:
        entry = entries.get(name)
        if entry is None:
            raise AdapterError(f"{name!r} is not a network of {where}")
        place = _fetched(entry["setting"], entry["source"], entry["commit"], options)
        if content_hash(NET_KINDS[entry["setting"]].inspect(place, info).files) != entry["sha256"]:
            raise RunError(f"{name!r} has changed since {where} was started: its files differ")
        return place

    return find


def _fetched(setting: str, name: str, commit: str, options: Mapping[str, Any] | None) -> Path:
    """The local path of a network: a folder or a file, by its kind."""
    kind = NET_KINDS[setting]
    if "://" not in name:
        return kind.find(name, commit or None)
    if kind.beside is None:
        return _copied_folder(setting, name, options)
    return _copied_file(setting, name, kind.beside, options)


def _copied_folder(setting: str, name: str, options: Mapping[str, Any] | None) -> Path:
    source = Store(name, options)
    found = source.files_by_name()
    wanted = {file: found[file] for file in found if any(Path(file).match(pattern) for pattern in NET_FILES)}
    if not wanted:
        raise AdapterError(f"{setting} {name!r}: has no config.json or no safetensors weights")
    return copied(source, wanted, MODELS.expanduser())


def _copied_file(
    setting: str, name: str, beside: Callable[[Path], list[str]], options: Mapping[str, Any] | None
) -> Path:
    """A local copy of the file, with what belongs to it."""
    root, folder, file = name.rsplit("/", 2)
    source, inside = Store(root, options), f"{folder}/{file}"
    wanted: dict[str, StoredFile] = {}
    for relative in (inside, *beside(Path(inside))):
        parent, _, own = relative.rpartition("/")
        if (found := Store(source.name(parent), options).files_by_name().get(own)) is not None:
            wanted[relative] = found
    if inside not in wanted:
        raise AdapterError(f"{setting} {name!r}: no such file")
    return copied(source, wanted, MODELS.expanduser()) / inside
