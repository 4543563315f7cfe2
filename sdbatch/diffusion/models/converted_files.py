"""A single-file checkpoint as a folder in diffusers' format, converted once per node."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL
from sdbatch.diffusion.checkpoints.clip_vocabulary import find_vocabularies
from sdbatch.diffusion.checkpoints.configs import Config
from sdbatch.diffusion.checkpoints.file_hashes import file_hash
from sdbatch.diffusion.checkpoints.single_file_shapes import Configs, single_file_configs, vae_config
from sdbatch.diffusion.checkpoints.single_files import SingleFile, read_single_file, read_single_vae
from sdbatch.diffusion.families import family_of_pipeline
from sdbatch.diffusion.families.declaration import Declaration
from sdbatch.errors import ModelError
from sdbatch.once_per_node import once_per_node

__all__ = ["Converted", "converted", "converted_vae"]

CACHE = Path("~/.cache/sdbatch/converted")
# Another number for another way of converting.
FORMAT = 1
CONFIG_NAMES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        folder: in diffusers' format.
        sha256: of the single file.
    """

    folder: Path
    sha256: str


def converted(path: Path, tokenizer: Path | None = None, prediction_type: str | None = None) -> Converted:
    """Convert a checkpoint with diffusers' own code, if this node has not done so yet.

    The folder is kept in the user's cache, by the content of the file, the configurations and the vocabulary. Any
    number of processes may ask at once: one converts, the others wait for it.

    Args:
        tokenizer: a folder with CLIP's vocabulary; None to find one.
        prediction_type: of the UNet; None for what the file says, or is usual for its kind.

    Raises:
        ModelError: the file is no checkpoint that can be converted, its vocabulary isn't found, or the cache can't be
            written.
    """
    file = read_single_file(path)
    configs = single_file_configs(file, prediction_type)
    family = _checked(file, configs)
    files = _files(file, configs, family, tokenizer)
    return _kept(file, files, configs["model_index"]["_class_name"], family.weighted)


def converted_vae(path: Path, known: Mapping[str, object]) -> Path:
    """The folder of a VAE that a single file holds, converted like a checkpoint.

    Args:
        known: the configuration of a VAE of the same kind, for what does not follow from shapes.

    Raises:
        ModelError: as for `converted`.
    """
    file, prefix = read_single_vae(path)
    config = Config({**known, **vae_config(file, prefix)}, str(path))
    config.check(AUTOENCODER_KL)
    return _kept(file, {"config.json": _json(dict(config))}, "AutoencoderKL", ()).folder


def _kept(file: SingleFile, files: Mapping[str, bytes], cls: str, parts: Sequence[str]) -> Converted:
    """The folder in the cache, converted now if it is not there.

    Args:
        files: what it holds besides weights.
        cls: of diffusers.
        parts: the components that have weights; none for a single network.
    """
    sha256 = file_hash(file.path)
    entry = CACHE.expanduser() / _key(sha256, files)
    folder = entry / "model"

    def convert() -> None:
        _convert(file, files, cls, parts, folder)
        if file_hash(file.path) != sha256:
            shutil.rmtree(folder)
            raise ModelError(f"{file.path}: changed while it was converted")

    try:
        once_per_node(entry, folder, convert)
    except OSError as error:
        raise ModelError(f"{file.path}: can't be converted in {entry}: {error.strerror or error}") from error
    return Converted(folder, sha256)


def _checked(file: SingleFile, configs: Configs) -> Declaration:
    """The family of the checkpoint, after its configurations are compared with what can be built."""
    family = family_of_pipeline(configs["model_index"]["_class_name"])
    assert family is not None
    for part in family.parts:
        Config(configs[part.name], f"{file.path}: {part.name}").check(part.kinds)
    return family


def _files(file: SingleFile, configs: Configs, family: Declaration, tokenizer: Path | None) -> dict[str, bytes]:
    """All files of the folder but the weights, by name."""
    names = [part.name for part in family.parts]
    files = {"model_index.json": _json(configs["model_index"])}
    for name in names:
        config = CONFIG_NAMES.get(name.removesuffix("_2"), "config.json")
        files[f"{name}/{config}"] = _json(configs[name])
    tokenizers = [name for name in names if name.startswith("tokenizer")]
    for name, vocabulary in zip(tokenizers, find_vocabularies(tokenizer, tokenizers), strict=True):
        size, known = configs[name.replace("tokenizer", "text_encoder")]["vocab_size"], len(vocabulary.numbers)
        if size != known:
            where = f"the vocabulary in {tokenizer}" if tokenizer else "CLIP's vocabulary"
            raise ModelError(f"{file.path}: its text encoder has {size:,} tokens, {where} {known:,}")
        files |= {f"{name}/{own}": content for own, content in vocabulary.files().items()}
    return files


def _convert(file: SingleFile, files: Mapping[str, bytes], cls: str, parts: Sequence[str], folder: Path) -> None:
    from sdbatch.diffusion.models.conversion import add_weights  # brings in torch, which planning does without

    part = folder.with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    _write(part, files)
    add_weights(file, part, cls, parts)
    _write(part, files)  # the libraries have put their own configurations beside the weights
    part.rename(folder)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _json(config: Mapping[str, object]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()


def _key(sha256: str, files: Mapping[str, bytes]) -> str:
    """Names of tensors in the folder depend on the versions of the libraries."""
    libraries = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]
    listing = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
    return hashlib.sha256(json.dumps([FORMAT, sha256, libraries, listing]).encode()).hexdigest()[:16]
