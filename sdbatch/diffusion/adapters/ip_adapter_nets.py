"""IP-Adapters in the lanes: a picture's keys and values for every layer, computed once per row.

A lane holds them, with a scale, beside those of its text. A lane without a picture is unchanged, to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sdbatch.diffusion.adapters.ip_adapter_rows import image_prompts_of
from sdbatch.diffusion.adapters.loaded_nets import LoadedNets
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.pictures.processor_class import processor_class
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.task import Need

__all__ = ["IpAdapterNet", "IpAdapters", "is_image_prompt", "sets_of"]

NAME = re.compile(r"image prompt \d+ of \d+")
SCALE = " scale"


@dataclass(frozen=True)
class IpAdapterNet:
    """An IP-Adapter in memory.

    Attributes:
        encoder: CLIP's vision tower.
        projection: turns the tower's output into tokens.
        weight: the weights of all layers' keys and values (features, dim), in the order of the texts' weights.
        is_plus: whether its input is the tower's hidden states rather than its embedding.
    """

    encoder: torch.nn.Module
    projection: torch.nn.Module
    weight: torch.Tensor
    is_plus: bool

    def features(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Keys and values (B, tokens, features) of pictures, and those of no picture, for the unconditional lane."""
        pixels = pixels.to(self.encoder.dtype)
        if self.is_plus:
            seen, nothing = (
                self.encoder(given, output_hidden_states=True).hidden_states[-2]
                for given in (pixels, torch.zeros_like(pixels))
            )
        else:
            seen = self.encoder(pixels).image_embeds
            nothing = torch.zeros_like(seen)
        return {"shown": self._project(seen), "nothing": self._project(nothing)}

    def _project(self, seen: torch.Tensor) -> torch.Tensor:
        return F.linear(self.projection(seen).to(self.weight.dtype), self.weight)


class IpAdapters:
    """The IP-Adapters of one denoiser's rows; those that fit are in memory (`LoadedNets`).

    Args:
        load: loads the adapter of a name.
        spare: returns the bytes that adapters may still take.
    """

    def __init__(self, load: Callable[[str], IpAdapterNet], spare: Callable[[], int]):
        self.nets = LoadedNets(load, spare)
        self._encoders: dict[str, _Features] = {}

    def needs(self, request: Request) -> list[Need]:
        """The pictures of a row's IP-Adapters to encode."""
        return [Need(_kind(prompt.adapter), prompt.image) for prompt in image_prompts_of(request)]

    def encoders(self, request: Request) -> dict[str, PictureEncoder]:
        """Their encoders, by kind."""
        return {_kind(prompt.adapter): self._encoder(prompt.adapter) for prompt in image_prompts_of(request)}

    def tensors(
        self, request: Request, encoded: Sequence[Mapping[str, torch.Tensor]], lanes: int
    ) -> list[dict[str, torch.Tensor]]:
        """The tensors of each of a row's lanes; the unconditional lane gets those of no picture."""
        found: list[dict[str, torch.Tensor]] = [{} for _ in range(lanes)]
        for i, (prompt, features) in enumerate(zip(image_prompts_of(request), encoded, strict=True)):
            for lane, named in enumerate(found):
                made = features["nothing" if lane else "shown"]
                name = f"image prompt {i} of {len(made)}"
                named[name] = made
                named[name + SCALE] = send(torch.tensor(prompt.scale), made.device)
        return found

    def _encoder(self, name: str) -> _Features:
        """An adapter's encoder. Threads use it without loading a network, so all that they need is read here."""
        if name not in self._encoders:
            side = self.nets[name].encoder.config.image_size
            self._encoders[name] = _Features(lambda pixels: self.nets[name].features(pixels), side)
        return self._encoders[name]


class _Features(PictureEncoder):
    """Encodes pictures for one adapter.

    Args:
        encode: passes pixels through its vision tower, its projection, then the keys and values of all layers.
        side: the tower's height and width in pixels.
    """

    def __init__(self, encode: Callable[[torch.Tensor], Mapping[str, torch.Tensor]], side: int):
        self._encode = encode
        self._processor = processor_class("CLIPImageProcessor")(size=side, crop_size=side)

    def pixels(self, need: Need) -> torch.Tensor:
        return self._processor(images=need.picture.load(), return_tensors="pt").pixel_values[0]

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return self._encode(pixels)

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Any:
        return encoded


def is_image_prompt(name: str) -> bool:
    """Whether a lane's tensor of that name belongs to an IP-Adapter."""
    return name.removesuffix(SCALE) != name or NAME.fullmatch(name) is not None


def sets_of(conditioning: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The features (L, tokens, features) and scales (L,) that layers attend to besides the texts, in order."""
    names = sorted(name for name in conditioning if NAME.fullmatch(name))
    return [(conditioning[name], conditioning[name + SCALE]) for name in names]


def _kind(adapter: str) -> str:
    return f"picture for {adapter}"
