"""The LoRAs of a lane set: each layer has a pool of slots, from which the lanes' factors are gathered."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sdbatch.diffusion.adapters.lora_bank import Factors
from sdbatch.diffusion.adapters.lora_layers import Gathered
from sdbatch.diffusion.device.transfer import send_together

__all__ = ["LoraSlots", "Place", "Weighted", "filled", "on_device"]

Weighted = tuple[Factors, float]
"""A file's factors for a layer, and the weight that a row gives them."""


def on_device(loras: Mapping[str, Sequence[Weighted]], device: torch.device) -> dict[str, list[Weighted]]:
    """Copy factors to the device, all at once: a copy for each would make the host wait for it hundreds of times."""
    all_factors = [factors for weighted in loras.values() for factors, _ in weighted]
    sent = iter(send_together([t for factors in all_factors for t in (factors.down, factors.up)], device))
    return {
        layer: [(replace(factors, down=next(sent), up=next(sent)), weight) for factors, weight in weighted]
        for layer, weighted in loras.items()
    }


@dataclass(frozen=True)
class Place:
    """A layer of the network, which may be several fused layers of the model (queries, keys, values).

    Attributes:
        parts: the model's layers, in the order of its outputs.
        inputs, taps: input features, and the size of its kernel.
        outputs: output features of all parts together.
    """

    parts: tuple[str, ...]
    inputs: int
    taps: int
    outputs: int

    def numbers(self, rank: int) -> int:
        """Numbers of a slot of this rank at this layer."""
        return rank * (len(self.parts) * self.inputs * self.taps + self.outputs)


class _Pool:
    """The slots of one layer: (S, in, taps, n, R), (S, n, R), (S, n, R, out / n)."""

    def __init__(self, place: Place, slots: int, rank: int, like: torch.Tensor):
        parts = len(place.parts)
        self.down = like.new_zeros(slots, place.inputs, place.taps, parts, rank)
        self.scale = like.new_zeros(slots, parts, rank)
        self.up = like.new_zeros(slots, parts, rank, place.outputs // parts)

    def clear(self, slot: int) -> None:
        for tensor in (self.down, self.scale, self.up):
            tensor[slot].zero_()

    def put(self, slot: int, part: int, loras: Sequence[Weighted]) -> None:
        """Write LoRAs into a slot; several are concatenated along the rank."""
        first = 0
        for factors, weight in loras:
            places = slice(first, first + factors.rank)
            down = factors.down.flatten(2) if factors.down.ndim > 2 else factors.down[..., None]
            self.down[slot, :, :, part, places].copy_(down.permute(1, 2, 0))
            self.scale[slot, part, places].fill_(factors.scale * weight)
            self.up[slot, part, places].copy_(factors.up.t())
            first += factors.rank

    def gathered(self, slots: torch.Tensor) -> Gathered:
        down, scale, up = (tensor.index_select(0, slots) for tensor in (self.down, self.scale, self.up))
        return Gathered(down.flatten(2), scale.flatten(1)[:, None], up)


def filled(place: Place, rank: int, lanes: Sequence[Mapping[str, Sequence[Weighted]]], like: torch.Tensor) -> Gathered:
    """The factors of a layer for a batch that runs once, from each entry's additions by the model's layer."""
    pool = _Pool(place, len(lanes), rank, like)
    for lane, loras in enumerate(lanes):
        for part, name in enumerate(place.parts):
            pool.put(lane, part, loras.get(name, ()))
    return pool.gathered(torch.arange(len(lanes), device=like.device))


class LoraSlots:
    """Slots of one rank. A slot holds all LoRAs of a row with their weights; rows with the same ones share a slot.

    Args:
        places: the layers of the network by name.
        slots: the maximum of different combinations of LoRAs in use at once.
        rank: the rank of every slot; LoRAs of smaller rank are padded with zeros.
        like: a tensor with the device and dtype to use.
    """

    def __init__(self, places: Mapping[str, Place], slots: int, rank: int, like: torch.Tensor):
        self._places = places
        self._rank = rank
        self._like = like
        self.slots = slots
        self.lanes: torch.Tensor | None = None
        # A pool is created for the first LoRA that changes the layer.
        self._pools: dict[str, _Pool] = {}
        self._held: dict[Hashable, int] = {}

    def slot(self, key: Hashable, in_use: Collection[Hashable], loras: Mapping[str, Sequence[Weighted]]) -> int:
        """The slot of a combination, which is written if it is new.

        Args:
            in_use: the combinations of all rows in the lanes, this one included; at most as many as there are slots.
            loras: the combination's additions, by the model's layer, on the host.
        """
        if key in self._held:
            return self._held[key]
        if len(self._held) == self.slots:
            idle = next(held for held in self._held if held not in in_use)
            slot = self._held.pop(idle)
        else:
            slot = len(self._held)
        for pool in self._pools.values():
            pool.clear(slot)
        loras = on_device(loras, self._like.device)
        for name, place in self._places.items():
            if any(part in loras for part in place.parts):
                pool = self._pools.get(name)
                if pool is None:
                    pool = self._pools[name] = _Pool(place, self.slots, self._rank, self._like)
                for part, layer in enumerate(place.parts):
                    pool.put(slot, part, loras.get(layer, ()))
        self._held[key] = slot
        return slot

    def gathered(self, layer: str) -> Gathered | None:
        """A layer's factors for the lanes of the current pass; None if no LoRA changes it."""
        pool = self._pools.get(layer)
        return None if pool is None else pool.gathered(self.lanes)
