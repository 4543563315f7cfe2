"""A model on the Hugging Face hub: a local folder of it, downloaded once into the hub's own cache.

What huggingface_hub honours holds here: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from pathlib import Path

from sdbatch.errors import ModelError

__all__ = ["fetch_configs", "fetch_weights"]

CONFIGS = ["*.json", "*.txt"]


def fetch_configs(repository: str, revision: str | None) -> Path:
    """The folder of a snapshot that has at least the model's configuration and tokenizer files.

    Raises:
        ModelError: no such model or revision, no access, or no connection and not in the cache.
    """
    return _snapshot(repository, revision, CONFIGS)


def fetch_weights(repository: str, revision: str | None, parts: tuple[str, ...], variant: str | None) -> Path:
    """The folder of a snapshot that has some components' safetensors files, too, those of a variant if given.

    Raises:
        ModelError: as for `fetch_configs`.
    """
    if variant is None:
        # Plain names have one dot. What has more is a variant, and as many gigabytes again.
        names, unwanted = ["*.safetensors"], ["*.*.safetensors"]
    else:
        names, unwanted = [f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"], None
    wanted = CONFIGS + [f"{part}/{name}" for part in parts for name in names]
    return _snapshot(repository, revision, wanted, unwanted)


def _snapshot(repository: str, revision: str | None, wanted: list[str], unwanted: list[str] | None = None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted
        )
    except LocalEntryNotFoundError as error:
        reason = "the hub can't be reached, and its cache on this machine doesn't have it"
        raise ModelError(f"model {repository!r}: no such folder, and as a hub id: {reason}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model {repository!r}: no such folder, and as a hub id: {reason}") from error
    return Path(folder)
