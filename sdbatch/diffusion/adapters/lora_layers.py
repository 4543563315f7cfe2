"""A network whose layers apply a different LoRA to each entry of a batch. It shares its weights with another one.

A layer adds up · (scale · (down · x)) to its output, with factors gathered per entry, in batched products of one
fixed shape: an entry's result depends on no other. The original network is unchanged, and so are its outputs' bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

__all__ = ["Current", "Gathered", "lora_twin"]


class Gathered(NamedTuple):
    """The factors of one layer for a batch of L entries; the layer's n parts share an input (queries, keys, values).

    Attributes:
        down: (L, in, taps · n · R), the taps of a convolution's kernel row by row.
        scale: (L, 1, n · R).
        up: (L, n, R, out / n).
    """

    down: torch.Tensor
    scale: torch.Tensor
    up: torch.Tensor


class Source(Protocol):
    """Provides the factors of the current batch."""

    def gathered(self, layer: str) -> Gathered | None: ...


class Current:
    """The LoRAs of the current pass, shared by all layers of a network."""

    def __init__(self) -> None:
        self.source: Source | None = None

    def gathered(self, layer: str) -> Gathered | None:
        """A layer's factors; None if no LoRA changes it."""
        return None if self.source is None else self.source.gathered(layer)


def lora_twin(network: torch.nn.Module, current: Current, *, hooked: bool) -> torch.nn.Module:
    """A copy of a network that shares its weights, and whose layers add the LoRAs in `current`.

    Args:
        hooked: whether the modules' forward hooks are copied.
    """
    twins: dict[torch.nn.Module, torch.nn.Module] = {}
    twin = _twin(network, twins, hooked)
    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.__class__ = _with_lora(type(module))
            module.lora_name, module.lora_current = name, current
    return twin


def _twin(module: torch.nn.Module, twins: dict[torch.nn.Module, torch.nn.Module], hooked: bool) -> torch.nn.Module:
    if module not in twins:
        # copy.copy fails for modules with quantised weights.
        twins[module] = twin = module.__class__.__new__(module.__class__)
        twin.__dict__.update(module.__dict__)
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            twin.__dict__[hooks] = OrderedDict(getattr(module, hooks)) if hooked else OrderedDict()
        twin._modules = {name: child and _twin(child, twins, hooked) for name, child in module._modules.items()}
    return twins[module]


@cache
def _with_lora(layer: type) -> type:
    mixin = _LoraConvolution if issubclass(layer, torch.nn.Conv2d) else _LoraLinear
    return type(f"Lora{layer.__name__}", (mixin, layer), {})


class _LoraLayer:
    """Mixin in front of a layer's class: the layer's output, with what the rows' LoRAs add to it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = super().forward(x)
        gathered = self.lora_current.gathered(self.lora_name)
        return made if gathered is None else self._with(made, x, gathered)


class _LoraLinear(_LoraLayer):
    def _with(self, made: torch.Tensor, x: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        parts = gathered.up.shape[1]
        rows = x[:, None] if x.ndim == 2 else x
        hidden = (torch.bmm(rows, gathered.down) * gathered.scale).chunk(parts, dim=-1)
        added = made[:, None] if x.ndim == 2 else made
        for part, part_hidden, up in zip(added.chunk(parts, dim=-1), hidden, gathered.up.unbind(1), strict=True):
            part.add_(torch.bmm(part_hidden, up))
        return made


class _LoraConvolution(_LoraLayer):
    """Taps of `down` are 1×1 products, shifted and summed at rank R."""

    def _with(self, made: torch.Tensor, x: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        lanes, channels, height, width = x.shape
        hidden = torch.bmm(x.permute(0, 2, 3, 1).reshape(lanes, height * width, channels), gathered.down)
        if self.kernel_size != (1, 1) or self.stride != (1, 1):
            hidden = self._shifted(hidden.view(lanes, height, width, -1), made.shape[2:])
        added = torch.bmm(hidden * gathered.scale, gathered.up[:, 0])
        return made.add_(added.view(lanes, *made.shape[2:], -1).permute(0, 3, 1, 2))

    def _shifted(self, hidden: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """The sum of the taps (L, H, W, taps · R), each shifted to its position: (L, h · w, R)."""
        (down, right), (top, left) = self.stride, self.padding
        taps = self.kernel_size[0] * self.kernel_size[1]
        padded = F.pad(hidden.unflatten(-1, (taps, -1)), (0, 0, 0, 0, left, left, top, top))
        total = None
        for tap in range(taps):
            i, j = divmod(tap, self.kernel_size[1])
            rows = slice(i, i + (size[0] - 1) * down + 1, down)
            columns = slice(j, j + (size[1] - 1) * right + 1, right)
            part = padded[:, rows, columns, tap]
            total = part if total is None else total + part
        return total.reshape(len(hidden), size[0] * size[1], -1)
