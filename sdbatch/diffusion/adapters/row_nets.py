"""The networks that rows name, in the lanes: what each kind needs of a row, prepares for it, and adds to a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from sdbatch.diffusion.adapters.control_nets import Controlled, ControlNets, Job, jobs_of
from sdbatch.diffusion.adapters.ip_adapter_nets import IpAdapters, is_image_prompt
from sdbatch.diffusion.adapters.net_fields import WITHOUT_DEEP_CACHE, nets_named
from sdbatch.diffusion.adapters.net_settings import several
from sdbatch.diffusion.adapters.residuals import Residuals
from sdbatch.diffusion.adapters.t2i_adapter_nets import T2IAdapters, added
from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.task import Need

__all__ = ["NOTHING", "Prepared", "RowNets"]


@dataclass(frozen=True)
class Prepared:
    """What the networks of a row prepared when it was admitted.

    Attributes:
        controlled: its ControlNets.
        tensors: named tensors that they add to each of its lanes.
        features: those of its T2I-Adapters, each (C, h, w).
        feature_calls: the number of first calls at which they are added.
    """

    controlled: Sequence[Controlled] = ()
    tensors: Sequence[Mapping[str, torch.Tensor]] = ()
    features: Sequence[torch.Tensor] = ()
    feature_calls: int = 0

    @property
    def adds(self) -> bool:
        """Whether they may add something within a pass."""
        return bool(self.controlled or self.features)

    def of_lane(self, lane: int) -> Mapping[str, torch.Tensor]:
        """The tensors of a lane of the row, by the lane's number."""
        return self.tensors[lane] if self.tensors else {}


NOTHING = Prepared()
"""That of a row that names no network."""


class RowNets:
    """The networks of one denoiser's rows, by kind.

    Args:
        skips_layers: whether passes leave layers out, as with DeepCache.
    """

    def __init__(
        self, controls: ControlNets, ip_adapters: IpAdapters, t2i_adapters: T2IAdapters, *, skips_layers: bool = False
    ):
        self.controls = controls
        self.ip_adapters = ip_adapters
        self.t2i_adapters = t2i_adapters
        self._skips_layers = skips_layers

    def shrink(self) -> bool:
        """Keep only a few networks of each kind in memory from now on; returns whether there were more."""
        kinds = (self.controls, self.ip_adapters, self.t2i_adapters)
        dropped = [kind.nets.shrink() for kind in kinds]
        return any(dropped)

    def refusal(self, request: Request) -> str | None:
        """The reason why this denoiser can't run the row's networks, or None."""
        if self._skips_layers and (named := nets_named(request, WITHOUT_DEEP_CACHE)):
            return f"a {named[0]} does not work with deep-cache, which skips layers that it adds to"
        return None

    def needs(self, request: Request, size: tuple[int, int], mask: Need | None = None) -> list[Need]:
        """The pictures to encode for a row's networks, for a picture of this height and width.

        Args:
            mask: a need of the row's task that is cropped to its mask.
        """
        return [
            *self.controls.needs(request, size, mask),
            *self.ip_adapters.needs(request),
            *self.t2i_adapters.needs(request, size, mask),
        ]

    def encoders(self, request: Request) -> dict[str, PictureEncoder]:
        """Their encoders, by kind.

        Raises:
            AdapterError: a network can't be used.
        """
        kinds = (self.controls, self.ip_adapters, self.t2i_adapters)
        return {name: encoder for kind in kinds for name, encoder in kind.encoders(request).items()}

    def prepared(
        self,
        request: Request,
        encoded: Sequence[Any],
        texts: Callable[[], Sequence[torch.Tensor]],
        *,
        lanes: int,
        feature_calls: int,
    ) -> Prepared:
        """What a row's networks compute from their pictures.

        Args:
            encoded: the encoded pictures, in the order of `needs`.
            texts: returns the hidden states (tokens, dim) of the text of each of its lanes.
            lanes: the number of its lanes.
            feature_calls: the number of first calls with T2I-Adapters.
        """
        pictures = iter(encoded)
        hints, shown, adapted = (
            list(islice(pictures, len(several(request.extra.get(setting)))))
            for setting in ("controlnet", "ip_adapter", "t2i_adapter")
        )
        return Prepared(
            self.controls.controlled(request, hints, texts()) if hints else (),
            self.ip_adapters.tensors(request, shown, lanes) if shown else (),
            self.t2i_adapters.features(request, adapted),
            feature_calls,
        )

    def residuals(
        self,
        rows: Iterable[tuple[Row, Prepared]],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> Residuals | None:
        """What the networks of the rows in a lane set add to a pass; None if no lane has a network.

        Args:
            latents, timesteps, conditioning: the denoiser's inputs, for all lanes.
        """
        rows = [(row, prepared) for row, prepared in rows if prepared.adds]
        if not rows:
            return Residuals() if any(map(is_image_prompt, conditioning)) else None
        featured = ((row, prepared.features) for row, prepared in rows if row.call < prepared.feature_calls)
        return Residuals(
            self.controls.residuals(_jobs(rows), latents, timesteps, conditioning), added(featured, len(latents))
        )


def _jobs(rows: Iterable[tuple[Row, Prepared]]) -> Iterator[Job]:
    """The runs of the rows' ControlNets at their present calls."""
    for row, prepared in rows:
        lanes, is_paired = (row.lane, row.partner), row.partner != row.lane
        yield from jobs_of(prepared.controlled, lanes, row.call, row.calls, is_paired=is_paired)
