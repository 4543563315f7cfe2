"""T2I-Adapters in the lanes: a row's features are computed once, when it is admitted, and added at its calls.

They depend on the control images alone, so a lane needs no further pass of a network. They are added only to the
lanes of their row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from sdbatch.diffusion.adapters.control_images import ControlImages, control_need
from sdbatch.diffusion.adapters.loaded_nets import LoadedNets
from sdbatch.diffusion.adapters.residuals import zeros_like_lanes
from sdbatch.diffusion.adapters.t2i_adapter_files import takes_gray
from sdbatch.diffusion.adapters.t2i_adapter_rows import adapter_images_of
from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.task import Need

__all__ = ["T2IAdapters", "added"]


class T2IAdapters:
    """The T2I-Adapters of one denoiser's rows; those that fit are in memory (`LoadedNets`).

    Args:
        load: loads the network of a name, on the denoiser's device and in its dtype.
        spare: returns the bytes that nets may still take.
        cell: pixels of a picture per side of a latent pixel.
    """

    def __init__(self, load: Callable[[str], torch.nn.Module], spare: Callable[[], int], cell: int):
        self._cell = cell
        self.nets: LoadedNets[torch.nn.Module] = LoadedNets(
            lambda name: load(name).to(memory_format=torch.channels_last), spare
        )
        self._encoders: dict[str, ControlImages] = {}

    def needs(self, request: Request, size: tuple[int, int], mask: Need | None = None) -> list[Need]:
        """The control images of a row to encode, as `control_need` has them."""
        return [control_need(_kind(one.adapter), one.image, size, mask) for one in adapter_images_of(request)]

    def encoders(self, request: Request) -> dict[str, PictureEncoder]:
        """Their encoders, by kind."""
        return {_kind(one.adapter): self._encoder(one.adapter) for one in adapter_images_of(request)}

    def features(self, request: Request, encoded: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
        """The weighted sums of the features of a row's adapters, each (C, h, w), as in diffusers' `MultiAdapter`.

        Args:
            encoded: the encoded control images.
        """
        sums: list[torch.Tensor] = []
        for one, features in zip(adapter_images_of(request), encoded, strict=True):
            for level, feature in enumerate(features.values()):
                if level < len(sums):
                    sums[level] += one.scale * feature
                else:
                    sums.append(one.scale * feature)
        return sums

    def _encoder(self, name: str) -> ControlImages:
        """An adapter's encoder. Threads use it without loading a network, so all that they need is read here."""
        if name not in self._encoders:
            gray = takes_gray(self.nets[name].config)
            self._encoders[name] = ControlImages(lambda pixels: self._made(name, pixels), self._cell, gray=gray)
        return self._encoders[name]

    def _made(self, name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        net = self.nets[name]
        features = net(pixels.to(net.dtype, memory_format=torch.channels_last))
        return {str(level): feature for level, feature in enumerate(features)}


def added(rows: Iterable[tuple[Row, Sequence[torch.Tensor]]], lanes: int) -> list[torch.Tensor]:
    """The features to add in a pass, each (L, C, h, w): those of the rows in their lanes, zeros in the others."""
    sums: list[torch.Tensor] = []
    for row, features in rows:
        for level, feature in enumerate(features):
            if level == len(sums):
                sums.append(zeros_like_lanes(lanes, feature))
            for lane in {row.lane, row.partner}:
                sums[level][lane].copy_(feature)
    return sums


def _kind(adapter: str) -> str:
    return f"adapter image of {adapter}"
