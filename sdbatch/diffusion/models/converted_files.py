"""Converts files to diffusers' format: single-file checkpoints, VAEs, and the text encoder of a complete CLIP.

A file is converted once per node, into the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL
from sdbatch.diffusion.checkpoints.clip_vocabulary import find_vocabularies
from sdbatch.diffusion.checkpoints.configs import Config, mapping
from sdbatch.diffusion.checkpoints.file_hashes import content_hash, file_hash
from sdbatch.diffusion.checkpoints.single_file_shapes import Configs, single_file_configs, vae_config
from sdbatch.diffusion.checkpoints.single_files import SingleFile, read_single_file, read_single_vae
from sdbatch.diffusion.checkpoints.weights import weights_name
from sdbatch.diffusion.families import family_of_pipeline
from sdbatch.diffusion.families.declaration import Declaration
from sdbatch.diffusion.models.made_folders import emptied, json_file, write_files
from sdbatch.errors import ModelError
from sdbatch.once_per_node import once_per_node

__all__ = ["Converted", "clip_text_config", "converted", "converted_clip", "converted_vae"]

CACHE = Path("~/.cache/sdbatch/converted")
# To be increased if the result of a conversion changes.
FORMAT = 1
CONFIG_NAMES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        folder: in diffusers' format.
        sha256: hash of the single file, in hex.
    """

    folder: Path
    sha256: str


def converted(path: Path, tokenizer: Path | None = None, prediction_type: str | None = None) -> Converted:
    """Convert a checkpoint with diffusers, unless this node has already converted it.

    The cache's key is the content of the file, of its configurations and of the vocabulary. Several processes may
    call this at the same time: one converts, the others wait.

    Args:
        tokenizer: a folder with CLIP's vocabulary; None to find one.
        prediction_type: what the UNet predicts; None for the file's metadata, or what its kind usually predicts.

    Raises:
        ModelError: the file cannot be converted, no vocabulary is found, or the cache cannot be written.
    """
    file = read_single_file(path)
    configs = single_file_configs(file, prediction_type)
    family = _checked(file, configs)
    files = _files(file, configs, family, tokenizer)
    return _kept(file, files, configs["model_index"]["_class_name"], family.weighted)


def converted_vae(path: Path, known: Mapping[str, object]) -> Path:
    """Convert the VAE in a single file, and return its folder.

    Args:
        known: the configuration of a VAE of the same kind, for values that do not follow from shapes.

    Raises:
        ModelError: as for `converted`.
    """
    file, prefix = read_single_vae(path)
    config = Config({**known, **vae_config(file, prefix)}, str(path))
    config.check(AUTOENCODER_KL)
    return _kept(file, {"config.json": json_file(dict(config))}, "AutoencoderKL", ()).folder


def clip_text_config(whole: Config, cls: str) -> Config:
    """The configuration of the text encoder of a complete CLIP.

    Args:
        cls: its class in transformers.

    Raises:
        ModelError: the CLIP's configuration has no text_config.
    """
    config = whole.value("text_config", mapping({}))
    if config is None:
        raise ModelError(f"{whole.source}: has no text_config")
    added = {
        "architectures": [cls],
        "model_type": "clip_text_model",
        "projection_dim": whole.get("projection_dim", 512),
    }
    return Config({**config, **added}, whole.source)


def converted_clip(folder: Path, config: Config) -> Path:
    """Copy the text encoder of a complete CLIP, and return its folder.

    Args:
        folder: the CLIP's folder, as transformers writes it.
        config: the text encoder's configuration, from `clip_text_config`.

    Raises:
        ModelError: its weights are not in one safetensors file, or the cache cannot be written.
    """
    path = folder / weights_name("text_encoder", None)
    if not path.exists():
        pickled = (
            "; sdbatch reads safetensors only" if any(name.endswith(".bin") for name in os.listdir(folder)) else ""
        )
        raise ModelError(f"{folder}: has no {path.name}{pickled}")
    files = {"config.json": json_file(dict(config))}
    entry = CACHE.expanduser() / _key(content_hash([path]), files)

    def convert() -> None:
        from sdbatch.diffusion.models.conversion import copy_text_encoder  # imports torch

        part = emptied(entry / "part")
        write_files(part, files)
        copy_text_encoder(path, part / path.name, projection="WithProjection" in config["architectures"][0])
        part.rename(entry / "model")

    _once(path, entry, convert)
    return entry / "model"


def _kept(file: SingleFile, files: Mapping[str, bytes], cls: str, parts: Sequence[str]) -> Converted:
    """Convert a file unless the cache has the result.

    Args:
        files: the contents of the folder's files, except weights, by name.
        cls: name of the pipeline or network in diffusers.
        parts: the components that have weights; empty for a single network.
    """
    sha256 = file_hash(file.path)
    entry = CACHE.expanduser() / _key(sha256, files)
    folder = entry / "model"

    def convert() -> None:
        _convert(file, files, cls, parts, folder)
        if file_hash(file.path) != sha256:
            shutil.rmtree(folder)
            raise ModelError(f"{file.path}: was changed while it was being converted")

    _once(file.path, entry, convert)
    return Converted(folder, sha256)


def _once(path: Path, entry: Path, convert: Callable[[], None]) -> None:
    """Call `convert`, which makes the folder `model` in `entry`, unless that exists."""
    try:
        once_per_node(entry, entry / "model", convert)
    except OSError as error:
        raise ModelError(f"{path}: can't be converted into {entry}: {error.strerror or error}") from error


def _checked(file: SingleFile, configs: Configs) -> Declaration:
    """The family of the checkpoint. Raises `ModelError` if a configuration has a value that is not allowed."""
    family = family_of_pipeline(configs["model_index"]["_class_name"])
    assert family is not None
    for part in family.parts:
        Config(configs[part.name], f"{file.path}: {part.name}").check(part.kinds)
    return family


def _files(file: SingleFile, configs: Configs, family: Declaration, tokenizer: Path | None) -> dict[str, bytes]:
    """The contents of all files of the folder, except weights, by name."""
    names = [part.name for part in family.parts]
    files = {"model_index.json": json_file(configs["model_index"])}
    for name in names:
        config = CONFIG_NAMES.get(name.removesuffix("_2"), "config.json")
        files[f"{name}/{config}"] = json_file(configs[name])
    tokenizers = [name for name in names if name.startswith("tokenizer")]
    for name, vocabulary in zip(tokenizers, find_vocabularies(tokenizer, tokenizers), strict=True):
        size, known = configs[name.replace("tokenizer", "text_encoder")]["vocab_size"], len(vocabulary.numbers)
        if size != known:
            where = f"the vocabulary in {tokenizer}" if tokenizer else "CLIP's vocabulary"
            raise ModelError(f"{file.path}: its text encoder has {size:,} tokens, but {where} has {known:,}")
        files |= {f"{name}/{own}": content for own, content in vocabulary.files().items()}
    return files


def _convert(file: SingleFile, files: Mapping[str, bytes], cls: str, parts: Sequence[str], folder: Path) -> None:
    from sdbatch.diffusion.models.conversion import add_weights  # imports torch, which plans need for nothing else

    part = emptied(folder.with_name("part"))
    write_files(part, files)
    add_weights(file, part, cls, parts)
    write_files(part, files)  # again, because the libraries write configurations of their own
    part.rename(folder)


def _key(sha256: str, files: Mapping[str, bytes]) -> str:
    """The name of a conversion in the cache. Tensor names depend on the versions of the libraries."""
    libraries = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]
    listing = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
    return hashlib.sha256(json.dumps([FORMAT, sha256, libraries, listing]).encode()).hexdigest()[:16]
