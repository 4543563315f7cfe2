"""Replaces parts of a model: its VAE, CLIP text encoders, entries of its scheduler's configuration.

The result is a folder of links in diffusers' format, so that all other code reads it like any model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.families.declaration import Declaration, Part
from sdbatch.diffusion.models.found_parts import find_text_encoder, find_vae
from sdbatch.diffusion.models.made_folders import emptied, json_file, write_files
from sdbatch.errors import ModelError
from sdbatch.fields import FrozenMapping
from sdbatch.once_per_node import once_per_node

__all__ = ["Swapped", "swapped"]

CACHE = Path("~/.cache/sdbatch/composed")
INDEX = "model_index.json"
VAE, SCHEDULER = "vae", "scheduler"
SCHEDULER_CONFIG = f"{SCHEDULER}/scheduler_config.json"


@dataclass(frozen=True)
class Swapped:
    """A model with replaced parts.

    Attributes:
        folder: its folder, in diffusers' format.
        given: by component, the option that replaced it.
        scheduler_config: the replaced entries of the scheduler's configuration.
        commits: of components that are on the hub.
    """

    folder: Path
    given: Mapping[str, str]
    scheduler_config: Mapping[str, object]
    commits: Mapping[str, str]

    def in_the_users_words(self, message: str, model: Path) -> str:
        """Replace paths in `folder`, which the user does not know, by what the user gave."""
        for part, option in self.given.items():
            message = message.replace(f"{self.folder / part}", option)
        return message.replace(f"{self.folder}", f"{model}")


def swapped(
    model: Path,
    family: Declaration,
    vae: str | None,
    text_encoders: Mapping[str, str],
    scheduler_config: Mapping[str, object],
) -> Swapped:
    """Make the folder in the user's cache, unless it exists.

    Args:
        model: the model's folder, in diffusers' format.
        vae: a folder with a VAE or with a model that has one, a hub id, or a single file.
        text_encoders: folders or hub ids, by the name of the component that each replaces.
        scheduler_config: entries of the scheduler's configuration, as text or with their types.

    Raises:
        ModelError: a part does not exist or does not fit the model, or the cache cannot be written.
    """
    own_index = read_config(model / INDEX)
    index, parts, given = dict(own_index), {part.name: part for part in family.parts}, {}
    links: dict[str, Path] = {}
    files: dict[str, bytes] = {}
    commits: dict[str, str] = {}
    if vae is not None:
        given[VAE] = f"--vae {vae}"
        found = find_vae(vae, _vae_of(family), read_config(model / VAE / "config.json"))
        links, index[VAE], commits[VAE] = {**found.links}, ["diffusers", found.cls], found.commit
    for name, place in text_encoders.items():
        given[name] = f"--text-encoder {name}={place}"
        found = find_text_encoder(place, _encoder_of(family, name, given[name]), given[name], model, index[name][1])
        links |= found.links
        index[name], commits[name] = ["transformers", found.cls], found.commit
    entries: Mapping[str, object] = {}
    if scheduler_config:
        # Imports diffusers, which plans need for nothing else.
        from sdbatch.diffusion.samplers.scheduler_entries import merged, shown_entries, typed_entries

        own, kinds = read_config(model / SCHEDULER_CONFIG), parts[SCHEDULER].kinds
        forced = family.forced_scheduler_config(own_index)
        entries = typed_entries(scheduler_config, own, family.samplers, kinds, forced)
        given[SCHEDULER] = shown_entries(entries)
        files[SCHEDULER_CONFIG] = json_file(merged(own, entries))
    if index != dict(own_index):
        files[INDEX] = json_file(index)
    on_hub = FrozenMapping({name: commit for name, commit in commits.items() if commit})
    return Swapped(_composed(model, links, files), FrozenMapping(given), FrozenMapping(entries), on_hub)


def _vae_of(family: Declaration) -> Part:
    for part in family.parts:
        if part.name == VAE and "AutoencoderKL" in part.classes:
            return part
    raise ModelError(f"--vae: {family.title} has no AutoencoderKL that another could replace; omit it")


def _encoder_of(family: Declaration, name: str, option: str) -> Part:
    clips = {part.name: part for part in family.clip_encoders}
    if name not in clips:
        has = f"has the CLIP text encoders {', '.join(clips)}" if clips else "has no CLIP text encoder"
        raise ModelError(f"{option}: {family.title} {has}; other text encoders can't be replaced")
    return clips[name]


def _composed(model: Path, links: Mapping[str, Path], files: Mapping[str, bytes]) -> Path:
    """A folder with links to a model's components, except those in `links`, and those that `files` replaces."""
    written = {name.partition("/")[0] for name in files}
    own = {name: model / name for name in os.listdir(model) if not name.startswith(".") and name not in written}
    targets = {name: str(path.resolve()) for name, path in sorted((own | dict(links)).items())}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    folder = CACHE.expanduser() / hashlib.sha256(json.dumps([targets, digests]).encode()).hexdigest()[:16]
    try:
        once_per_node(folder.parent, folder, lambda: _make(targets, files, folder))
    except OSError as error:
        raise ModelError(f"{folder}: can't be made from {model}: {error.strerror or error}") from error
    return folder


def _make(links: Mapping[str, str], files: Mapping[str, bytes], folder: Path) -> None:
    part = emptied(folder.with_name(f"{folder.name}.part"))
    part.mkdir()
    for name, target in links.items():
        (part / name).symlink_to(target)
    write_files(part, files)
    part.rename(folder)
