"""LAION's aesthetic predictors: a small head on a picture's CLIP ViT-L/14 embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError
from sdbatch.scoring.clip import BATCH, ClipNetwork
from sdbatch.scoring.networks import networks_described
from sdbatch.scoring.scorer import Score, Scorer, in_fixed_batches

__all__ = ["Aesthetic"]

# Linear layers of the V2 predictor (sac+logos+ava1-l14-linearMSE), with dropout between them.
V2_LAYERS = (0, 2, 4, 6, 7)


class Aesthetic(Scorer):
    """Aesthetic score, about 1 to 10, the scale on which people rated the training pictures.

    Args:
        clip: folder of the CLIP model on whose embeddings the head was trained.
        head: file of the head's weights: LAION's linear head (one layer) or the V2 predictor (five), in safetensors
            or in PyTorch's own format, which is read without running code in it.
        device: a torch device's name, for CLIP.

    Raises:
        ModelError: a file cannot be read, or the head does not fit this CLIP.
    """

    batch = BATCH

    def __init__(self, clip: Path, head: Path, device: str) -> None:
        self._network = ClipNetwork(clip, device)
        self._head_file = head
        self._head = head_of(_read(head), head)
        if self._head[0].in_features != self._network.width:
            raise ModelError(
                f"{head}: takes embeddings of width {self._head[0].in_features}, and {clip} gives {self._network.width}"
            )

    @torch.inference_mode()
    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        embeddings = list(self._network.pictures(pictures))
        found = in_fixed_batches(lambda some: self._head(torch.stack(some))[:, 0], embeddings, BATCH)
        return [{"aesthetic": float(value)} for value in found]

    def describe(self) -> Mapping[str, Any]:
        return networks_described(self._network.folder, self._head_file, device=self._network.device)


def head_of(weights: Mapping[str, torch.Tensor], file: Path) -> torch.nn.Sequential:
    """The head with these weights. Raises `ModelError` if they belong to neither predictor."""
    names = (
        ["weight", "bias"]
        if "weight" in weights
        else [f"layers.{n}.{w}" for n in V2_LAYERS for w in ("weight", "bias")]
    )
    if sorted(weights) != sorted(names):
        raise ModelError(
            f"{file}: is neither LAION's linear head nor the V2 predictor; its weights are {sorted(weights)[:4]}"
        )
    layers = []
    for weight, bias in zip(names[::2], names[1::2], strict=True):
        layer = torch.nn.Linear(*reversed(weights[weight].shape))
        layer.load_state_dict({"weight": weights[weight].float(), "bias": weights[bias].float()})
        layers.append(layer)
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def _read(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:  # the readers raise all kinds of exceptions for damaged files
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise ModelError(f"{file}: can't be read as the weights of an aesthetic head: {reason}") from exc
