"""The tensors of a lane set, and what a pass does to them. Knows no policy: it is told who has which lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.tables import MAX_DEPTH, Table
from sdbatch.diffusion.transfer import send

__all__ = ["Slots"]


class Slots:
    """State of L lanes of one latent shape; a row's latents live in its conditional lane.

    Latents and step arithmetic are float32 whatever the UNet's dtype. All lanes go through the same
    elementwise operations in the same order, so neighbours change no bit of a row.

    Attributes:
        latents: float32 (L, C, h, w).
        conditioning: named tensors with a leading dimension of L, as the family gives them for a lane.
        deep_features: what the UNet's inner layers gave when they ran last, (L, …), if the family caches them.
    """

    def __init__(self, shape: tuple[int, int, int], lanes: int, device: torch.device):
        self.device = device
        self.lanes = lanes
        self.latents = torch.zeros(lanes, *shape, device=device)
        self.conditioning: dict[str, torch.Tensor] = {}
        self.deep_features: torch.Tensor | None = None
        # Past latents and model outputs, k calls ago at place (calls so far − k) mod MAX_DEPTH.
        self._past_latents = torch.zeros(MAX_DEPTH, lanes, *shape, device=device)
        self._past_outputs = torch.zeros(MAX_DEPTH, lanes, *shape, device=device)
        self._calls = 0
        # The lane whose latents lane i denoises, and the lane whose output is unconditional for lane i.
        self._source, self._uncond = np.arange(lanes), np.arange(lanes)
        self._source_index = self._uncond_index = torch.arange(lanes, device=device)

    def admit(self, row: Row, latents: torch.Tensor, conditioning: list[Mapping[str, torch.Tensor]]) -> None:
        """Put a row into its lanes.

        Args:
            latents: float32 (C, h, w), on the CPU.
            conditioning: the conditional lane's named tensors, then the unconditional lane's if it has one.
        """
        # 0·NaN is NaN: what an overflown row left behind must not reach the next one.
        self._past_latents[:, row.lane].zero_()
        self._past_outputs[:, row.lane].zero_()
        self.latents[row.lane].copy_(send(latents, self.device))
        for lane, named in zip((row.lane, row.partner)[: row.width], conditioning, strict=False):
            for name, tensor in named.items():
                if name not in self.conditioning:
                    self.conditioning[name] = tensor.new_zeros(self.lanes, *tensor.shape)
                self.conditioning[name][lane].copy_(tensor)
        self._uncond[row.lane] = row.partner
        self._uncond[row.partner] = row.partner
        self._source[row.lane] = self._source[row.partner] = row.lane
        self._source_index, self._uncond_index = self._send(self._source), self._send(self._uncond)

    def narrow(self, row: Row) -> None:
        """Make a row's conditional lane the only one that it depends on."""
        self._uncond[row.lane] = row.lane
        self._uncond_index = self._send(self._uncond)

    def inputs(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The UNet's latents (L, C, h, w) and timesteps (L,), both float32."""
        latents = self.latents.index_select(0, self._source_index)
        return latents * numbers[INPUT_SCALE].view(-1, 1, 1, 1), numbers[TIMESTEP]

    def advance(
        self,
        outputs: torch.Tensor,
        numbers: torch.Tensor,
        noise: torch.Tensor | None,
        *,
        depth: int,
        rescaled: bool,
    ) -> None:
        """Guidance, then x' = Σₖ aₖ·x₍ₖ₎ + Σₖ bₖ·m₍ₖ₎ + s·z for every lane.

        Args:
            outputs: (L, C, h, w), what the UNet predicts.
            numbers: float32 (rows of numbers, L), from `numbers_of`.
            noise: float32 (L, C, h, w) with finite values in all lanes, or None if no lane has any.
            depth: calls back that any row looks.
            rescaled: whether any row has a guidance_rescale.
        """
        columns = numbers[:, :, None, None, None].unbind()
        outputs = outputs.float()
        unconditional = outputs.index_select(0, self._uncond_index)
        # A lane without a partner is its own: u + g·(c − u) is then c, to the bit.
        guided = torch.addcmul(unconditional, columns[GUIDANCE], outputs - unconditional)
        if rescaled:
            guided = rescale(guided, outputs, columns[RESCALE])
        outputs = guided
        advanced = columns[X] * self.latents
        advanced.addcmul_(columns[M], outputs)
        for k in range(1, depth + 1):
            place = (self._calls - k) % MAX_DEPTH
            advanced.addcmul_(columns[X + k], self._past_latents[place])
            advanced.addcmul_(columns[M + k], self._past_outputs[place])
        if noise is not None:
            advanced.addcmul_(columns[NOISE], noise)
        place = self._calls % MAX_DEPTH
        self._past_latents[place].copy_(self.latents)
        self._past_outputs[place].copy_(outputs)
        self.latents = advanced
        self._calls += 1

    def _send(self, indices: np.ndarray) -> torch.Tensor:
        # A copy: the host's array changes with the next admission, perhaps before the device has read it.
        return send(torch.from_numpy(indices.copy()), self.device)


# Rows of the array of numbers that a pass takes to the device, a column a lane.
TIMESTEP, INPUT_SCALE, GUIDANCE, RESCALE, NOISE = range(5)
X = NOISE + 1
M = X + MAX_DEPTH + 1
NUMBERS = M + MAX_DEPTH + 1


def numbers_of(rows: Iterable[tuple[Row, Table, Sequence[float], float]], lanes: int) -> torch.Tensor:
    """What each lane's next call is made of: float32 (NUMBERS, L) on the CPU.

    Args:
        rows: those in the lanes, each with its table, its guidance scale at each call, and its guidance rescale.
    """
    numbers = np.zeros((NUMBERS, lanes), dtype=np.float32)
    # Lanes without a row denoise zeros at timestep 0.
    numbers[INPUT_SCALE] = 1.0
    for row, table, guidance_scales, guidance_rescale in rows:
        i, depth = row.call, table.depth
        pair = [row.lane, row.partner]
        numbers[TIMESTEP, pair] = table.timesteps[i]
        numbers[INPUT_SCALE, pair] = table.input_scale[i]
        lane = row.lane
        numbers[GUIDANCE, lane] = guidance_scales[i]
        numbers[RESCALE, lane] = guidance_rescale if guidance_scales[i] != 1 else 0
        numbers[NOISE, lane] = table.noise[i]
        numbers[X : X + depth + 1, lane] = table.x[i]
        numbers[M : M + depth + 1, lane] = table.m[i]
    return torch.from_numpy(numbers)


def rescale(guided: torch.Tensor, conditional: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Guided outputs, their standard deviation pulled towards that of the conditional ones (Lin et al. 2023).

    A factor of 0 leaves a lane as it is, to the bit.
    """
    lanes = guided.shape[0]
    std_conditional = conditional.reshape(lanes, -1).std(dim=1).view(-1, 1, 1, 1)
    std_guided = guided.reshape(lanes, -1).std(dim=1).view(-1, 1, 1, 1)
    rescaled = factor * (guided * (std_conditional / std_guided)) + (1 - factor) * guided
    return torch.where(factor == 0, guided, rescaled)
