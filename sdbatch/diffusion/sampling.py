"""Rows on their way from noise to latents: what the UNet's passes need, and what becomes of their outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from sdbatch.diffusion.cuda_graph import CudaGraphs
from sdbatch.diffusion.embeddings import Embeddings
from sdbatch.diffusion.families import StableDiffusion
from sdbatch.diffusion.guidance import guidance_scales, paired_calls
from sdbatch.diffusion.lanes import LaneSet, Row
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.slots import Slots, numbers_of
from sdbatch.diffusion.tables import Table
from sdbatch.diffusion.transfer import send

__all__ = ["Sampling", "SamplingRow"]

TEXT_BATCH = 8
# Waiting rows looked through for texts that fill up a batch of the text encoder.
LOOK_AHEAD = 64
# Passes that the host may be ahead of a GPU: enough that it never waits, few enough to bound memory.
RUN_AHEAD = 2


@dataclass(eq=False, kw_only=True)
class SamplingRow(Row):
    """A row with what its sampling needs.

    Attributes:
        guidance_scales: of each call; 1 where there is no guidance.
        generator: draws the start latents and every call's noise; made when the row is admitted.
    """

    request: Request
    table: Table
    guidance_scales: Sequence[float]
    prompt_tokens: int
    generator: torch.Generator | None = None


class Sampling:
    """The tensors of all lane sets. Every method is one of the things that a step does with one of them.

    Args:
        cuda_graphs: whether passes are played from graphs, which must give the same bits.
    """

    def __init__(self, family: StableDiffusion, *, cuda_graphs: bool = False):
        self._family = family
        self._graphs = CudaGraphs(family.denoise) if cuda_graphs else None
        self._embeddings = Embeddings(family.encode, TEXT_BATCH)
        self._slots: dict[tuple[int, int], Slots] = {}
        self._passes: deque[torch.cuda.Event] = deque()

    def row(self, index: int, request: Request) -> SamplingRow:
        """A valid request as a row that can wait for lanes.

        Raises:
            SamplerError: its sampler and steps do not go with this model.
        """
        family, info = self._family, self._family.info
        table = family.table(request)
        scales = guidance_scales(request, info, table.calls)
        return SamplingRow(
            index=index,
            shape=family.latent_shape(request.height or info.height, request.width or info.width)[1:],
            calls=table.calls,
            paired_calls=paired_calls(scales),
            request=request,
            table=table,
            guidance_scales=scales,
            prompt_tokens=family.count_tokens(request.prompt),
        )

    def admit(self, lane_set: LaneSet, rows: list[SamplingRow], waiting: Iterable[SamplingRow]) -> None:
        """Give rows that have just got lanes their start latents and conditioning; `waiting` come next."""
        if not rows:
            return
        family = self._family
        shape = (family.unet.config.in_channels, *lane_set.shape)
        if lane_set.shape not in self._slots:
            self._slots[lane_set.shape] = Slots(shape, lane_set.size, family.device)
        upcoming = (text for row in islice(waiting, LOOK_AHEAD) for text in family.texts(row.request))
        self._embeddings.get([text for row in rows for text in family.texts(row.request)], upcoming)
        for row in rows:
            row.generator = torch.Generator().manual_seed(int(row.request.seed))
            latents = family.start_latents(shape, row.generator) * row.table.init_noise_sigma
            encoded = self._embeddings.get(family.texts(row.request))
            conditioning = family.conditioning(row.request, encoded, shape)
            self._slots[lane_set.shape].admit(row, latents, conditioning)

    def denoise(self, lane_set: LaneSet) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of the UNet: what it predicts, and the numbers that say what becomes of it."""
        self._keep_in_step()
        slots = self._slots[lane_set.shape]
        rows = ((row, row.table, row.guidance_scales, row.request.guidance_rescale) for row in lane_set.rows)
        numbers = send(numbers_of(rows, lane_set.size), self._family.device)
        features = slots.deep_features if lane_set.passes_since_deep else None
        denoise = self._graphs or self._family.denoise
        outputs, slots.deep_features = denoise(*slots.inputs(numbers), slots.conditioning, features)
        return outputs, numbers

    def advance(self, lane_set: LaneSet, outputs: torch.Tensor, numbers: torch.Tensor) -> None:
        """Take every row of the set one call further."""
        depth = max(row.table.depth for row in lane_set.rows)
        rescaled = any(row.request.guidance_rescale and row.width == 2 for row in lane_set.rows)
        slots = self._slots[lane_set.shape]
        slots.advance(outputs, numbers, self._draw_noise(lane_set), depth=depth, rescaled=rescaled)

    def narrow(self, row: SamplingRow) -> None:
        """Let a row go on without its unconditional lane, which another row will have."""
        self._slots[row.shape].narrow(row)

    def latents(self, row: SamplingRow) -> torch.Tensor:
        """A row's latents as they are now: float32 (C, h, w), a copy."""
        return self._slots[row.shape].latents[row.lane].clone()

    def release(self, lane_set: LaneSet) -> None:
        """Give back the memory of a set without rows."""
        self._slots.pop(lane_set.shape, None)
        if self._graphs is not None:
            self._graphs.forget(lane_set.shape)

    def clear(self) -> None:
        """Give back all memory; the rows that were here can be admitted anew."""
        self._slots.clear()
        if self._graphs is not None:
            self._graphs.forget()
        self._embeddings.clear()
        self._passes.clear()

    def _draw_noise(self, lane_set: LaneSet) -> torch.Tensor | None:
        """What each row's generator gives for this call: float32, on the CPU, as diffusers draws it."""
        shape = self._slots[lane_set.shape].latents.shape
        noise = None
        for row in lane_set.rows:
            if not row.table.draws[row.call]:
                continue
            # Some samplers draw where the coefficient is 0; the generator must move on all the same.
            drawn = torch.randn(1, *shape[1:], generator=row.generator)
            if row.table.noise[row.call]:
                noise = torch.zeros(shape) if noise is None else noise
                noise[row.lane] = drawn[0]
        return None if noise is None else send(noise, self._family.device)

    def _keep_in_step(self) -> None:
        """On CUDA, wait until the device has at most `RUN_AHEAD` passes before it."""
        if self._family.device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._family.device))
        self._passes.append(event)
        if len(self._passes) > RUN_AHEAD:
            self._passes.popleft().synchronize()
