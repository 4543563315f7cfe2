"""Downloads models from the Hugging Face hub, once, into the hub's own cache.

Uses the environment variables of huggingface_hub: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sdbatch.errors import ModelError

__all__ = [
    "CONFIG_SUFFIXES",
    "HUB_ID",
    "HUB_PLACE",
    "at_commit",
    "cached_files",
    "commit_of",
    "fetch_configs",
    "fetch_files",
    "fetch_snapshot",
    "fetch_weights",
]

# How a repository is named: owner/name.
HUB_ID = r"[\w.-]+/[\w.-]+"
# How a folder or a file in one is named: owner/name@revision/folder; the revision may be missing.
HUB_PLACE = rf"({HUB_ID})(?:@([\w.-]+))?((?:/[\w. -]+)*)"
# Files of a model besides weights: configurations, vocabularies, SentencePiece models, chat templates.
CONFIG_SUFFIXES = (".json", ".txt", ".model", ".jinja")
CONFIGS = [f"*{suffix}" for suffix in CONFIG_SUFFIXES]


def fetch_configs(repository: str, revision: str | None) -> Path:
    """The folder of a snapshot that has at least the model's configuration and tokenizer files.

    Raises:
        ModelError: no such model or revision, no access, or no connection and not in the cache.
    """
    return _snapshot(repository, revision, CONFIGS)


def fetch_weights(repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """The folder of a snapshot that has the configuration files and, of the weights `names`, those that exist.

    Raises:
        ModelError: as for `fetch_configs`.
    """
    return _snapshot(repository, revision, [*CONFIGS, *names])


def fetch_snapshot(repository: str, wanted: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a snapshot that has the files that match patterns.

    Raises:
        ModelError: as for `fetch_configs`.
    """
    return _snapshot(repository, revision, list(wanted))


def fetch_files(repository: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a snapshot that has these files.

    Raises:
        ModelError: as for `fetch_configs`, or a file is not in the repository.
    """
    folder = _snapshot(repository, revision, list(names))
    for name in names:
        if not (folder / name).exists():
            raise ModelError(f"{repository}: the hub has no {name} in it")
    return folder


def cached_files(repository: str, names: Sequence[str]) -> Path | None:
    """The folder of a snapshot in the hub's cache that has these files; None if there is none. Makes no request."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name) for name in names]
    folders = {Path(path).parent for path in found if isinstance(path, str)}
    return folders.pop() if len(folders) == 1 and all(isinstance(path, str) for path in found) else None


def at_commit(name: str, commit: str | None) -> str:
    """The name of a place on the hub at a commit; other names, and any name without a commit, as they are."""
    place = re.fullmatch(HUB_PLACE, name)
    return f"{place[1]}@{commit}{place[3]}" if place and commit else name


def commit_of(path: Path) -> str:
    """The commit of a file in the hub's cache, which has a folder `snapshots` with one for each; empty for others."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _snapshot(repository: str, revision: str | None, wanted: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except LocalEntryNotFoundError as error:
        reason = "the hub can't be reached, and its cache on this machine doesn't have it"
        raise ModelError(f"model {repository!r}: no such folder, and as a hub id: {reason}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model {repository!r}: no such folder, and as a hub id: {reason}") from error
    return Path(folder)
