"""A model with the VAE of another: a folder of links, so that everything else reads it like any model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.checkpoints.hub import HUB_ID, fetch_snapshot
from sdbatch.diffusion.checkpoints.single_files import refuse_pickle
from sdbatch.diffusion.checkpoints.weights import SUFFIX
from sdbatch.diffusion.models.converted_files import converted_vae
from sdbatch.errors import ModelError
from sdbatch.once_per_node import once_per_node

__all__ = ["with_vae"]

CACHE = Path("~/.cache/sdbatch/composed")
CONFIG, PART, RUNS = "config.json", "vae", "AutoencoderKL"


def with_vae(model: Path, vae: str) -> Path:
    """A folder with the components of a model and another VAE, made in the user's cache if it is not there yet.

    Args:
        model: in diffusers' format.
        vae: a folder with an AutoencoderKL or with a model that has one, a hub id of such, or a single file.

    Raises:
        ModelError: there is no such VAE, or it is of another kind.
    """
    found = _found(model, vae)
    if (kind := read_config(found / CONFIG).get("_class_name", RUNS)) != RUNS:
        raise ModelError(f"--vae {vae}: is a {kind}; sdbatch runs {RUNS}")
    links = {name: str((model / name).resolve()) for name in sorted(os.listdir(model)) if not name.startswith(".")}
    links[PART] = str(found.resolve())
    key = hashlib.sha256(json.dumps(links).encode()).hexdigest()[:16]
    folder = CACHE.expanduser() / key
    try:
        once_per_node(folder.parent, folder, lambda: _link(links, folder))
    except OSError as error:
        raise ModelError(f"--vae {vae}: can't be put together in {folder}: {error.strerror or error}") from error
    return folder


def _found(model: Path, vae: str) -> Path:
    """The folder with the VAE's own configuration and weights."""
    if os.path.isfile(vae):
        refuse_pickle(vae)
        return converted_vae(Path(vae), read_config(model / PART / CONFIG))
    folder = Path(vae)
    if not os.path.isdir(folder):
        if vae.endswith(SUFFIX) or not re.fullmatch(HUB_ID, vae):
            raise ModelError(f"--vae {vae}: no such file or folder")
        # Of a whole model only its VAE is needed.
        folder = fetch_snapshot(vae, [CONFIG, f"*model{SUFFIX}", f"{PART}/{CONFIG}", f"{PART}/*model{SUFFIX}"])
    found = folder / PART if (folder / PART / CONFIG).exists() else folder
    if not (found / CONFIG).exists():
        raise ModelError(f"--vae {vae}: holds neither {CONFIG} nor {PART}/{CONFIG}")
    return found


def _link(links: dict[str, str], folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name, target in links.items():
        (part / name).symlink_to(target)
    part.rename(folder)
