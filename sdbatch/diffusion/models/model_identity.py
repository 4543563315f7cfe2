"""Identifies a model by the content of its files.

`model_hash` covers the weights, and is the hash in PNG files. `model_files` covers every file that can change a
picture: configurations, vocabularies, the scheduler's settings and the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

from sdbatch.diffusion.checkpoints.configs import check_regular
from sdbatch.diffusion.checkpoints.file_hashes import file_hash, labelled_hash
from sdbatch.diffusion.checkpoints.hub import CONFIG_SUFFIXES
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.models.inspection import INDEX, ModelInfo, weight_files

__all__ = ["different_files", "model_files", "model_hash", "model_identity"]

MAX_BYTES = 1 << 30  # of a configuration or a vocabulary; the largest vocabularies have some 30 MB
SHOWN_FILES = 3
DIGEST_CHARACTERS = 16
SINGLE_FILE = "checkpoint.safetensors"


def model_hash(info: ModelInfo) -> str:
    """SHA-256, in hex, over the names and contents of all weight files that the engine loads, sorted.

    For a single-file checkpoint it is that of the file, which is the hash that web UIs and Civitai show.
    """
    if info.checkpoint is not None:
        return info.checkpoint
    return labelled_hash([(path, path.relative_to(info.folder).as_posix()) for path in weight_files(info)])


def model_files(info: ModelInfo) -> dict[str, str]:
    """A digest (16 hex digits of a SHA-256) of every file that can change a picture, by its name in the folder.

    These are model_index.json, the weights that are loaded, and the configurations and vocabularies beside them, in the
    folders of the components. Any change of their bytes counts. For a single-file checkpoint, the file itself stands
    for the weights that were made of it, under the name "checkpoint.safetensors". Files of textual inversion are
    "embeddings/TOKEN".

    Raises:
        ModelError: a file can't be read, is empty, or is too large for a configuration or a vocabulary.
    """
    paths = [info.folder / INDEX]
    for path in weight_files(info):
        if info.checkpoint is None or path.parent.name in info.swapped:
            paths.append(path)
    for part in family_named(info.family).parts:
        names = os.listdir(info.folder / part.name)
        kept = [name for name in names if name.endswith(CONFIG_SUFFIXES) and not name.startswith(".")]
        for path in (info.folder / part.name / name for name in kept):
            check_regular(path, max_bytes=MAX_BYTES)
            paths.append(path)
    digests = {path.relative_to(info.folder).as_posix(): file_hash(path) for path in sorted(paths)}
    if info.checkpoint is not None:
        digests[SINGLE_FILE] = info.checkpoint
    digests |= {f"embeddings/{embedding.token}": embedding.sha256 for embedding in info.embeddings}
    return {name: digest[:DIGEST_CHARACTERS] for name, digest in digests.items()}


def model_identity(files: Mapping[str, str]) -> str:
    """SHA-256, in hex, over the result of `model_files`."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def different_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of the files in which two models differ, for a message."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(names[:SHOWN_FILES]) + more
