"""Loads ControlNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from sdbatch.diffusion.adapters.control_files import find_controlnet, inspect_controlnet
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.models.loading import load_network
from sdbatch.errors import AdapterError, ModelError

__all__ = ["controlnet_loader"]


def controlnet_loader(
    info: ModelInfo, device: torch.device, dtype: torch.dtype, find: Callable[[str], Path] | None = None
) -> Callable[[str], torch.nn.Module]:
    """A function that loads the nets of a model's rows by name.

    Args:
        find: returns the local folder of a net; by default a name is a local folder or a hub id.
    """

    def load(name: str) -> torch.nn.Module:
        """Raises `AdapterError` if the net can't be found, read or used with the model."""
        found = inspect_controlnet((find or find_controlnet)(name), info)
        try:
            return load_network(diffusers.ControlNetModel, found.folder, found.weights, dtype, device)
        except ModelError as error:
            raise AdapterError(str(error)) from error

    return load
