"""The tensors of a lane set, and the arithmetic of a pass. Has no policy: `lanes` assigns rows to lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.samplers.coefficients import MAX_DEPTH, Coefficients

__all__ = ["Slots"]


class Slots:
    """State of L lanes of one latent shape; a row's latents live in its conditional lane.

    Latents and step arithmetic are float32 for any dtype of the denoiser. All lanes go through the same elementwise
    operations in the same order, so neighbours change no bit of a row.

    Attributes:
        shape: the shape of a row's latents, (C, h, w).
        latents: float32 (L, C, h, w).
        conditioning: the family's named tensors of all lanes, with a leading dimension of L.
        deep_features: the latest outputs of the UNet's inner layers, (L, …), if the family caches them.
    """

    def __init__(self, shape: tuple[int, int, int], lanes: int, device: torch.device):
        self.device = device
        self.shape = shape
        self.lanes = lanes
        self.latents = torch.zeros(lanes, *shape, device=device)
        self.conditioning: dict[str, torch.Tensor] = {}
        self.deep_features: torch.Tensor | None = None
        # Past latents and model outputs; those of k calls ago are at index (calls so far − k) mod MAX_DEPTH.
        self._past_latents = torch.zeros(MAX_DEPTH, lanes, *shape, device=device)
        self._past_outputs = torch.zeros(MAX_DEPTH, lanes, *shape, device=device)
        self._calls = 0
        # Created for the first row that keeps parts of a picture: the repainted cells; picture and noise of the others.
        self._painted: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None
        # For lane i: the lane whose latents it denoises, and the lane of its unconditional output.
        self._source, self._uncond = np.arange(lanes), np.arange(lanes)
        self._source_index = self._uncond_index = torch.arange(lanes, device=device)
        # The lane without text and picture, for rows with three lanes; for others the unconditional lane.
        self._third, self._third_index = np.arange(lanes), torch.arange(lanes, device=device)

    def admit(
        self,
        row: Row,
        latents: torch.Tensor,
        conditioning: list[Mapping[str, torch.Tensor]],
        keep: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Put a row into its lanes. All tensors are on the device.

        Args:
            latents: float32 (C, h, w).
            conditioning: the conditional lane's named tensors, then the unconditional lane's if it has one.
            keep: of a row that keeps parts of a picture: what is painted, bool (1, h, w); the picture's latents and
                the noise (C, h, w) that stay elsewhere.
        """
        # 0·NaN is NaN: leftovers of a row that overflowed must not reach the next one.
        self._past_latents[:, row.lane].zero_()
        self._past_outputs[:, row.lane].zero_()
        self.latents[row.lane].copy_(latents)
        self._admit_kept(row, keep)
        for lane, named in zip((row.lane, row.partner, row.third)[: row.width], conditioning, strict=False):
            for name, tensor in named.items():
                if name not in self.conditioning:
                    self.conditioning[name] = tensor.new_zeros(self.lanes, *tensor.shape)
                self.conditioning[name][lane].copy_(tensor)
            for name in self.conditioning.keys() - named.keys():  # tensors that only rows of other kinds have
                self.conditioning[name][lane].zero_()
        lanes = [row.lane, row.partner, row.third]
        self._uncond[lanes] = row.partner, row.partner, row.third
        self._third[lanes] = row.third
        self._source[lanes] = row.lane
        self._send_indices()

    def narrow(self, row: Row) -> None:
        """Make a row depend only on its conditional lane."""
        self._uncond[row.lane] = self._third[row.lane] = row.lane
        self._send_indices()

    def inputs(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The denoiser's latents (L, C, h, w) and timesteps (L,), both float32."""
        latents = self.latents.index_select(0, self._source_index)
        return latents * numbers[INPUT_SCALE].view(-1, 1, 1, 1), numbers[TIMESTEP]

    def advance(
        self,
        outputs: torch.Tensor,
        numbers: torch.Tensor,
        noise: torch.Tensor | None,
        *,
        depth: int,
        renormalise: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None,
        keeps: bool = False,
        guided_twice: bool = False,
    ) -> None:
        """Guidance, then x' = Σₖ aₖ·x₍ₖ₎ + Σₖ bₖ·m₍ₖ₎ + s·z for every lane.

        Args:
            outputs: (L, C, h, w), the denoiser's prediction.
            numbers: float32 (NUMBERS, L), from `numbers_of`.
            noise: float32 (L, C, h, w) with finite values in all lanes, or None if no lane needs any.
            depth: maximum number of earlier calls that any row uses.
            renormalise: the family's method, if any row has a guidance_rescale.
            keeps: whether any row keeps parts of a picture. These are restored last, also in the history.
            guided_twice: whether any row has three lanes.
        """
        columns = numbers[:, :, None, None, None].unbind()
        outputs = outputs.float()
        unconditional = outputs.index_select(0, self._uncond_index)
        base = unconditional
        if guided_twice:
            third = outputs.index_select(0, self._third_index)
            base = torch.addcmul(third, columns[IMAGE_GUIDANCE], unconditional - third)
        # A lane without a partner is its own partner: u + g·(c − u) is then c, to the bit.
        guided = torch.addcmul(base, columns[GUIDANCE], outputs - unconditional)
        if renormalise is not None:
            guided = renormalise(guided, outputs, columns[RESCALE])
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
        if keeps:
            kept = columns[KEEP_PICTURE] * self._kept[0] + columns[KEEP_NOISE] * self._kept[1]
            advanced = torch.where(self._painted, advanced, kept)
        self.latents = advanced
        self._calls += 1

    def _admit_kept(self, row: Row, keep: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None) -> None:
        if keep is None:
            if self._painted is not None:
                self._painted[row.lane].fill_(True)
            return
        if self._painted is None:
            self._painted = torch.ones(self.lanes, 1, *self.shape[1:], dtype=torch.bool, device=self.device)
            self._kept = torch.zeros(2, self.lanes, *self.shape, device=self.device)
        painted, picture, noise = keep
        self._painted[row.lane].copy_(painted)
        self._kept[0, row.lane].copy_(picture)
        self._kept[1, row.lane].copy_(noise)

    def _send_indices(self) -> None:
        self._source_index = self._send(self._source)
        self._uncond_index, self._third_index = self._send(self._uncond), self._send(self._third)

    def _send(self, indices: np.ndarray) -> torch.Tensor:
        # A copy: the host's array changes at the next admission, perhaps before the device has read it.
        return send(torch.from_numpy(indices.copy()), self.device)


# Rows of the array of numbers that a pass copies to the device; one column per lane.
TIMESTEP, INPUT_SCALE, GUIDANCE, RESCALE, NOISE = range(5)
X = NOISE + 1
M = X + MAX_DEPTH + 1
KEEP_PICTURE = M + MAX_DEPTH + 1
KEEP_NOISE = KEEP_PICTURE + 1
IMAGE_GUIDANCE = KEEP_NOISE + 1
NUMBERS = IMAGE_GUIDANCE + 1


def numbers_of(rows: Iterable[tuple[Row, Coefficients, Sequence[float], float, float]], lanes: int) -> torch.Tensor:
    """The coefficients of each lane's next call: float32 (NUMBERS, L) on the CPU.

    Args:
        rows: the rows in the lanes, each with its coefficients, its guidance scale of each call, its guidance rescale,
            and its picture's guidance scale, if any.
    """
    numbers = np.zeros((NUMBERS, lanes), dtype=np.float32)
    # Lanes without a row denoise zeros at timestep 0.
    numbers[INPUT_SCALE] = 1.0
    for row, coefficients, guidance_scales, guidance_rescale, image_guidance in rows:
        i, depth = row.call, coefficients.depth
        lanes_of_row = [row.lane, row.partner, row.third]
        numbers[TIMESTEP, lanes_of_row] = coefficients.timesteps[i]
        numbers[INPUT_SCALE, lanes_of_row] = coefficients.input_scale[i]
        lane = row.lane
        numbers[GUIDANCE, lane] = guidance_scales[i]
        numbers[RESCALE, lane] = guidance_rescale if guidance_scales[i] != 1 else 0
        numbers[IMAGE_GUIDANCE, lane] = image_guidance if guidance_scales[i] != 1 else 1
        numbers[NOISE, lane] = coefficients.noise[i]
        numbers[X : X + depth + 1, lane] = coefficients.x[i]
        numbers[M : M + depth + 1, lane] = coefficients.m[i]
        if coefficients.keep is not None:
            numbers[KEEP_PICTURE : KEEP_NOISE + 1, lane] = coefficients.keep[i]
    return torch.from_numpy(numbers)
