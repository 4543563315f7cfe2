"""Merges LoRAs into the weights, for runs whose rows all have the same ones. Half-precision weights are rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sdbatch.diffusion.adapters.lora_bank import LoraBank
from sdbatch.diffusion.adapters.lora_files import LoraModel
from sdbatch.diffusion.adapters.lora_names import DENOISERS
from sdbatch.diffusion.adapters.lora_rows import Lora

__all__ = ["merge_loras"]


@torch.no_grad()
def merge_loras(parts: Mapping[str, Any], loras: Sequence[Lora], model: LoraModel) -> None:
    """Add up · down · scale · weight to the weights of a model, in float32; the sum is cast to the weights' dtype.

    Args:
        parts: the networks, by folder name.

    Raises:
        AdapterError: a file does not fit the model, or contains values that are not finite.
    """
    bank = LoraBank(model, torch.float32)
    changed: dict[torch.nn.Module, torch.Tensor] = {}
    networks = {part for part, _ in model.layers}
    modules = {
        (part, name.removeprefix("text_model.")): module
        for part in networks
        for name, module in parts[part].named_modules()
    }
    for lora in loras:
        for layer, factors in bank.factors(lora.path).items():
            module = modules[layer]
            weight = lora.weight if layer[0] in DENOISERS else lora.te_weight
            added = (factors.up @ factors.down.flatten(1)).view(module.weight.shape) * (factors.scale * weight)
            before = changed.get(module)
            changed[module] = (module.weight.float() if before is None else before) + added.to(module.weight.device)
    for module, merged in changed.items():
        module.weight.copy_(merged)
