"""Finds and fetches the LoRA files named by a table's cells and prompts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdbatch.diffusion.adapters.lora_rows import Lora, Loras
from sdbatch.diffusion.checkpoints.file_hashes import file_hash
from sdbatch.diffusion.request import Request
from sdbatch.errors import AdapterError, ModelError, RunError, StorageError, UsageError
from sdbatch.fields import FrozenMapping
from sdbatch.prompts.columns import Columns
from sdbatch.settings import RunSettings
from sdbatch.storage.addresses import protocol_of
from sdbatch.storage.local_copies import ChangedFile, local_copy
from sdbatch.storage.store import Store
from sdbatch.weighted_files import WeightedFile, WeightedFiles

__all__ = ["TAGGED", "LoraReader", "joined_loras", "names_loras", "recorded_loras", "without_lora_tags"]

CACHE = Path("~/.cache/sdbatch/loras")
WEB = ("http", "https", "ftp")
TAGGED = "<lora:"
TAG = re.compile(r"<lora:([^<>]*)>")
# Addresses that are read without the options of the table's store.
HUB = "hf"


def without_lora_tags(prompt: str) -> tuple[str, str]:
    """A prompt without its `<lora:name:weight>` tags, and the files in the folder of LoRAs that these name.

    As in stable-diffusion-webui, a second number is the UNet's weight, and the first one the text encoder's.

    Raises:
        UsageError: a tag names no file of that folder, or its weights are not numbers.
    """
    files = []
    for tag in TAG.finditer(prompt):
        name, *weights = (part.strip() for part in tag[1].split(":"))
        if not name or len(weights) > 2 or name.startswith("/") or ".." in name.split("/"):
            raise UsageError(f"{tag[0]}: expected <lora:name:weight>, with the name of a file in --lora-dir")
        try:
            numbers = [float(weight) for weight in weights][::-1]
        except ValueError as error:
            raise UsageError(f"{tag[0]}: expected <lora:name:weight>, with a number") from error
        entry = dict(zip(("weight", "te_weight"), numbers, strict=False))
        files.append({"path": f"{name}.safetensors", **entry})
    return " ".join(TAG.sub(" ", prompt).split()) if files else prompt, WeightedFiles().check("prompt", files)


def joined_loras(first: str | None, second: str) -> str | None:
    """Join two texts that name files."""
    return ";".join(text for text in (first, second) if text) or None


def names_loras(columns: Columns, settings: RunSettings) -> bool:
    """Whether rows of the table may have LoRAs."""
    return "lora" in columns.settings or settings.lora_dir is not None or settings.extra.get("lora") is not None


def recorded_loras(networks: Iterable[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """The LoRAs among a manifest's entries of networks, by address."""
    return {entry["name"]: entry for entry in networks if entry["setting"] == "lora"}


@dataclass(frozen=True)
class LoraReader:
    """Finds the LoRA files of rows, and fetches those that are not on this machine.

    Attributes:
        folder: the base of relative paths (--lora-dir); None for the folder of the table's file.
        options: fsspec storage options.
        merged: whether the LoRAs of all rows are merged into the model's weights.
        recorded: the manifest's entries of an output's LoRAs by address, which must not have changed since.
    """

    folder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    merged: bool = False
    recorded: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    # Results for files of stores, so that a store gets one request per file, not one per row.
    _fetched: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)

    def read(self, request: Request, folder: str) -> Request:
        """The request with its LoRAs fetched to this machine, or with the reason why they are unavailable.

        Args:
            folder: the folder of the row's file.
        """
        text = request.extra.get("lora")
        if not isinstance(text, str):
            return request
        return replace(request, extra=FrozenMapping({**request.extra, "lora": self.loras(text, folder)}))

    def loras(self, text: str, folder: str) -> Loras:
        """The files that a text names, fetched to this machine, or the reason why they are unavailable.

        Raises:
            RunError: a file has changed since the output was started.
        """
        try:
            files = tuple(self._lora(file, folder) for file in WeightedFiles().files("lora", text))
        except (ModelError, StorageError, UsageError, OSError, ValueError) as error:
            return Loras(text, (), str(error).splitlines()[0])
        return Loras(text, files, merged=self.merged)

    def merged_files(self, text: str) -> tuple[Lora, ...]:
        """The files to merge into a model. Raises `AdapterError` if they are unavailable."""
        loras = self.loras(text, "")
        if loras.error is not None:
            raise AdapterError(f"--lora: {loras.error}")
        return loras.files

    def store(self, path: str, folder: str) -> Store:
        """The location of a row's path. Raises `UsageError` for a location that is never read."""
        protocol = protocol_of(path)
        if protocol in (*WEB, "data"):
            raise UsageError(f"{path}: LoRAs are not read from the web; download it, or use hf:// or s3://")
        base = folder if self.folder is None else self.folder
        place = path if protocol or os.path.isabs(path) or not base else f"{base.rstrip('/')}/{path}"
        return Store(place, {} if protocol_of(place) == HUB else self.options)

    def _lora(self, file: WeightedFile, folder: str) -> Lora:
        store = self.store(file.path, folder)
        entry = self.recorded.get(store.url, {})
        try:
            path = self._fetched.get(store.url) or local_copy(store, CACHE.expanduser(), entry.get("stamp"))
            if not store.is_local:
                self._fetched[store.url] = path
            sha256 = file_hash(path)
            if sha256 != entry.get("sha256", sha256):
                raise ChangedFile
        except ChangedFile:
            raise RunError(f"{store.url!r} has changed since OUT was started: its content differs") from None
        return Lora(str(path), file.weight, file.te_weight, sha256)
