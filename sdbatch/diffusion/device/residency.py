"""Text encoders and the denoiser take turns on a device that can't hold both.

Weights that are not on the device are kept by the host. Moving them changes no bit. A network whose weights are away
can't run: its parameters are empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from sdbatch.diffusion.device.memory import release_cached

__all__ = ["Residency"]


class Residency:
    """Brings the text encoders onto the device while texts are encoded, and the denoiser at all other times.

    Args:
        encoders: the text encoders, on the host.
        denoiser: the denoiser, on the device.
        stays: prefixes of the names of the denoiser's weights that encoding texts also uses; these never leave.
        device: the device.

    Attributes:
        visits: number of times that the text encoders came onto the device.
        trial_texts: encoded texts for trials of the device, on the host; encoded once.
    """

    def __init__(
        self,
        encoders: Iterable[torch.nn.Module],
        denoiser: torch.nn.Module,
        stays: Collection[str],
        device: torch.device,
    ):
        self._device = device
        self._texts = _Weights((p for encoder in encoders for p in encoder.parameters()), device)
        names = tuple(stays)
        self._denoiser = _Weights(
            (weight for name, weight in denoiser.named_parameters() if not name.startswith(names)), device
        )
        self._is_encoding = False
        self.visits = 0
        self.trial_texts: Mapping[str, torch.Tensor] | None = None
        self._texts.leave()

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Have the text encoders on the device, and not the denoiser."""
        if self._is_encoding:
            yield
            return
        self._is_encoding = True
        try:
            self._denoiser.leave()
            release_cached(self._device)
            self._texts.enter()
            self.visits += 1
            yield
        finally:
            self._is_encoding = False
            self.settle()

    def settle(self) -> None:
        """Have the denoiser on the device, and not the text encoders. It can be repeated if memory runs out."""
        self._texts.leave()
        release_cached(self._device)
        self._denoiser.enter()


class _Weights:
    """Parameters that come and go together. A parameter's identity stays; its data is empty while it is away."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], device: torch.device):
        self._parameters = list(dict.fromkeys(parameters))
        self._device = device
        self._on_host: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._away: set[torch.nn.Parameter] = set()

    def leave(self) -> None:
        with torch.inference_mode(False):
            for parameter in self._parameters:
                if parameter in self._away:
                    continue
                if parameter not in self._on_host:  # weights never change, so one copy is enough
                    self._on_host[parameter] = parameter.data.to("cpu")
                parameter.data = torch.empty(0, dtype=parameter.dtype, device=self._device)
                self._away.add(parameter)

    def enter(self) -> None:
        with torch.inference_mode(False):
            for parameter in [parameter for parameter in self._parameters if parameter in self._away]:
                parameter.data = self._on_host[parameter].to(self._device)
                self._away.remove(parameter)
