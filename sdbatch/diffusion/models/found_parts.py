"""Finds a VAE or a CLIP text encoder that replaces a model's own, and compares it with that one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.architectures import latent_scale
from sdbatch.diffusion.checkpoints.clip_vocabulary import VOCABULARY_FILES, find_vocabularies
from sdbatch.diffusion.checkpoints.configs import Config, read_config
from sdbatch.diffusion.checkpoints.hub import HUB_PLACE, commit_of, fetch_files, fetch_snapshot
from sdbatch.diffusion.checkpoints.single_files import refuse_pickle
from sdbatch.diffusion.checkpoints.weights import SUFFIX, weights_name
from sdbatch.diffusion.families.declaration import Part
from sdbatch.diffusion.models.converted_files import clip_text_config, converted_clip, converted_vae
from sdbatch.errors import ModelError

__all__ = ["FoundPart", "find_text_encoder", "find_vae"]

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_CONFIG, *VOCABULARY_FILES, "special_tokens_map.json", "added_tokens.json")
VARIANTS = (None, "fp16")
# What must be as in the model's own text encoder, with the defaults of transformers, which its configurations omit.
SIZES = {"hidden_size": 512, "num_hidden_layers": 12, "max_position_embeddings": 77}
WIDTHS = {"projection_dim": 512}
WITH_PROJECTION = "CLIPTextModelWithProjection"
WHOLE_CLIP = "clip"  # its model_type: text and pictures


@dataclass(frozen=True)
class FoundPart:
    """A component that replaces a model's own.

    Attributes:
        links: the folders of the component and, if there is one beside a text encoder, of its tokenizer.
        cls: its class in diffusers or transformers.
        commit: its commit on the hub; otherwise empty.
    """

    links: Mapping[str, Path]
    cls: str
    commit: str


def find_vae(vae: str, part: Part, own: Config) -> FoundPart:
    """A VAE.

    Args:
        vae: a folder with a VAE or with a model that has one, or a single file; also on the hub.
        part: the component that it replaces.
        own: that component's configuration.

    Raises:
        ModelError: there is no such VAE, or it is of another kind.
    """
    if os.path.isfile(vae) or vae.endswith(SUFFIX):
        refuse_pickle(vae)
        if own.get("_class_name") != "AutoencoderKL":
            raise ModelError(f"--vae {vae}: a single file can't replace a {own.get('_class_name')}; name a folder")
        file = Path(vae) if os.path.isfile(vae) else _fetched_file(vae)
        return FoundPart({part.name: converted_vae(file, own)}, "AutoencoderKL", _commit_of(file, vae))
    found = _folder(vae, part.name, f"--vae {vae}", ())
    config = read_config(found / CONFIG)
    cls = config.get("_class_name", "AutoencoderKL")
    if cls not in part.classes:
        raise ModelError(f"--vae {vae}: is of class {cls}; sdbatch runs {' and '.join(part.classes)} with this model")
    config.check(part.kinds)
    if (theirs := latent_scale(config)) != (ours := latent_scale(own)):
        raise ModelError(f"--vae {vae}: a pixel of its latents is {theirs} pixels wide, but this model needs {ours}")
    return FoundPart({part.name: found}, str(cls), _commit_of(found, vae))


def find_text_encoder(given: str, part: Part, option: str, model: Path, declared: str) -> FoundPart:
    """A text encoder, and the tokenizer beside it.

    It must have the width, the number of layers and the positions of the model's own. From a complete CLIP, the text
    encoder is copied into the user's cache.

    Args:
        given: a folder with a text encoder or with a model that has one, or a hub id of such a folder.
        part: the component that it replaces.
        option: for messages.
        model: the model's folder.
        declared: the class of the model's own text encoder.

    Raises:
        ModelError: there is no such text encoder, or it does not fit the model.
    """
    tokenizer = part.name.replace("text_encoder", "tokenizer")
    if os.path.isfile(given) or given.endswith(SUFFIX):
        raise ModelError(f"{option}: is a file; expected a folder with {CONFIG}, or a hub id")
    found = _folder(given, part.name, option, [tokenizer])
    config = read_config(found / CONFIG)
    vocabulary = next((place for place in (found, found.parent / tokenizer) if _is_tokenizer(place)), None)
    is_whole = config.get("model_type") == WHOLE_CLIP
    if is_whole:
        config = clip_text_config(config, declared)
    cls = config.get("_class_name") or next(iter(config.get("architectures") or [declared]))
    if cls not in part.classes:
        raise ModelError(f"{option}: is of class {cls}; sdbatch runs {' and '.join(part.classes)} as {part.name}")
    config.check(part.kinds)
    own = read_config(model / part.name / CONFIG)
    for name, default in (SIZES | (WIDTHS if cls == WITH_PROJECTION == declared else {})).items():
        if (ours := own.get(name, default)) != (theirs := config.get(name, default)):
            raise ModelError(f"{option}: its {name} is {theirs}, but this model needs {ours}")
    names = find_vocabularies(vocabulary or model / tokenizer, [tokenizer])[0].numbers
    if (size := config.get("vocab_size", 49408)) < len(names):
        raise ModelError(f"{option}: has {size:,} tokens, but its tokenizer's vocabulary {len(names):,}")
    commit = _commit_of(found, given)
    if is_whole:
        found = converted_clip(found, config)
    links = {part.name: found} | ({tokenizer: vocabulary} if vocabulary else {})
    return FoundPart(links, cls, commit)


def _folder(given: str, part: str, option: str, beside: Sequence[str]) -> Path:
    """The folder with a component's own configuration and weights.

    Args:
        beside: names of folders beside it that belong to it.
    """
    folder = Path(given)
    if not os.path.isdir(folder):
        on_hub = re.fullmatch(HUB_PLACE, given)
        if on_hub is None or given.startswith("."):
            raise ModelError(f"{option}: no such folder")
        try:
            folder = _fetched(on_hub[1], on_hub[2], on_hub[3].strip("/"), part, beside)
        except ModelError as error:
            raise ModelError(f"{option}: {str(error).partition(': ')[2]}") from error
    found = folder / part if (folder / part / CONFIG).exists() else folder
    if not (found / CONFIG).exists():
        raise ModelError(f"{option}: has neither {CONFIG} nor {part}/{CONFIG}")
    return found


def _fetched_file(vae: str) -> Path:
    """A single file in a hub repository."""
    on_hub = re.fullmatch(HUB_PLACE, vae)
    if on_hub is None or vae.startswith(".") or not (name := on_hub[3].strip("/")):
        raise ModelError(f"--vae {vae}: no such file")
    try:
        return fetch_files(on_hub[1], [name], on_hub[2]) / name
    except ModelError as error:
        raise ModelError(f"--vae {vae}: {str(error).partition(': ')[2]}") from error


def _commit_of(place: Path, given: str) -> str:
    return "" if os.path.exists(given) else commit_of(place)


def _fetched(repository: str, revision: str | None, inside: str, part: str, beside: Sequence[str]) -> Path:
    """A folder in a hub repository, with a component and what belongs to it; nothing else of a whole model."""
    places = [f"{inside}/" if inside else "", f"{inside}/{part}/" if inside else f"{part}/"]
    parent = inside.rpartition("/")[0]
    neighbours = [f"{place}/{name}".lstrip("/") for place in {parent, inside} for name in beside]
    wanted = [f"{place}{name}" for place in places for name in (CONFIG, *(TOKENIZER_FILES if beside else ()))]
    wanted += [f"{place}/{name}" for place in neighbours for name in TOKENIZER_FILES]
    folder = Path()
    for variant in VARIANTS:
        weights = weights_name(part, variant)
        stem = weights.removesuffix(SUFFIX)
        own = [f"{place}{name}" for place in places for name in (weights, f"{stem}-*{SUFFIX}", f"{stem}*.index*.json")]
        folder = fetch_snapshot(repository, [*wanted, *own], revision)
        if any((folder / place).is_dir() and any((folder / place).glob(f"{stem}*{SUFFIX}")) for place in places):
            break
    return folder / inside


def _is_tokenizer(folder: Path) -> bool:
    has = [(folder / name).exists() for name in (TOKENIZER_CONFIG, *VOCABULARY_FILES)]
    return has[0] and (all(has[1:3]) or has[3])
