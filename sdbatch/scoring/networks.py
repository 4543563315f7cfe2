"""Loads a scorer's network, with checks as strict as for diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from sdbatch.diffusion.models.text_masks import mask_every_batch
from sdbatch.errors import ModelError
from sdbatch.scoring.scorer_weights import weights_hash

__all__ = ["load_network", "model_type", "networks_described"]


def load_network(cls: Any, config_cls: Any, folder: Path, device: str) -> torch.nn.Module:
    """Load a transformers model from safetensors, in float32, for inference; no weights may be missing.

    Raises:
        ModelError: it cannot be read, or lacks weights.
    """
    try:
        config = config_cls.from_pretrained(folder)
        model, report = cls.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as exc:  # the libraries raise all kinds of exceptions for damaged folders
        raise _unusable(folder, exc) from exc
    if report["missing_keys"]:
        raise ModelError(f"{folder}: its weights lack {sorted(report['missing_keys'])[0]}")
    mask_every_batch(model)
    return model.to(device).eval().requires_grad_(False)


def model_type(folder: Path) -> str:
    """The `model_type` of a transformers model's configuration; "" if it has none. Raises `ModelError`."""
    try:
        config, _ = transformers.PretrainedConfig.get_config_dict(folder)
    except Exception as exc:  # as above
        raise _unusable(folder, exc) from exc
    return str(config.get("model_type", ""))


def _unusable(folder: Path, exc: Exception) -> ModelError:
    reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return ModelError(f"{folder}: can't be loaded as a scorer's model: {reason}")


def networks_described(*paths: Path, device: str) -> Mapping[str, Any]:
    """Device, versions and the weights' hash, to be recorded with the scores."""
    return {
        "device": device,
        "weights": weights_hash(*paths),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
