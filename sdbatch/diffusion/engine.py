"""`Engine`: continuous batching of text-to-image requests."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import diffusers
import torch

from sdbatch.diffusion.decoding import Decoded, Decoder
from sdbatch.diffusion.embeddings import Embeddings
from sdbatch.diffusion.lanes import Lanes, LaneSet, Row
from sdbatch.diffusion.loading import load_family, resolve_device, resolve_dtype
from sdbatch.diffusion.models import ModelInfo, inspect_model
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.slots import Slots, numbers_of, send
from sdbatch.diffusion.tables import Table
from sdbatch.diffusion.validation import validate
from sdbatch.errors import SamplerError, UsageError

__all__ = ["Engine"]

DEFAULT_LANES = 16
TEXT_BATCH = 8
# Waiting rows looked through for texts that fill up a batch of the text encoder.
LOOK_AHEAD = 64


@dataclass(eq=False, kw_only=True)
class _Sampling(Row):
    """A row with what its sampling needs."""

    request: Request
    table: Table
    guidance_scale: float
    prompt_tokens: int
    prompt_truncated: bool
    generator: torch.Generator | None = None


class Engine:
    """Runs many different requests through one UNet at once.

    The UNet, the text encoder and the VAE always run at the same batch shapes, so a request's picture depends on
    nothing but the request, the model and these settings: not on its neighbours, nor on the order of submission.

    Args:
        model: "tiny", the packaged model, or a folder in diffusers' format.
        lanes: even batch size of the UNet at the model's own picture size; a request with guidance takes two.
        dtype: "auto" (fp16 on CUDA, fp32 on a CPU), "fp16", "bf16" or "fp32".
        device: "auto", "cpu" or "cuda".
        compile: "auto" (off on a CPU), "on" or "off": whether the UNet goes through torch.compile.

    Raises:
        ModelError: the model can't be found, read or run.
        UsageError: a setting that makes no sense.
    """

    def __init__(
        self,
        model: str | Path = "tiny",
        *,
        lanes: int | None = DEFAULT_LANES,
        dtype: str = "auto",
        device: str = "auto",
        compile: str = "auto",
    ):
        lanes = DEFAULT_LANES if lanes is None else lanes
        if lanes < 2 or lanes % 2:
            raise UsageError(f"lanes must be an even number of at least 2, not {lanes}")
        self.info: ModelInfo = inspect_model(model)
        self._device = resolve_device(device)
        self.device = str(self._device)
        self.dtype = resolve_dtype(dtype, self._device)
        self.compile = "off"
        self._family = load_family(self.info, self.dtype, self._device)
        self._embeddings = Embeddings(self._family.encode, TEXT_BATCH)
        self._lanes = Lanes(lanes, self._family.latent_shape(self.info.height, self.info.width)[1:])
        self._slots: dict[tuple[int, int], Slots] = {}
        self._decoder = Decoder(self._family, _decode_batch(lanes))
        self._submitted = 0
        self._lane_calls = self._lane_calls_used = 0
        self._failed: deque[GeneratedImage] = deque()

    @property
    def lanes(self) -> int:
        return self._lanes.lanes

    @property
    def room(self) -> int:
        """How many more requests it is worth submitting now."""
        return self._lanes.room

    @property
    def idle(self) -> bool:
        """Nothing waits, samples or decodes, and every result has been given out."""
        return self._lanes.idle and self._decoder.idle and not self._failed

    @property
    def counters(self) -> dict[str, float]:
        """Calls of the UNet times lanes so far, and how many of these held a row; rows that wait, lanes in use now."""
        return {
            "lane_calls": self._lane_calls,
            "lane_calls_used": self._lane_calls_used,
            "lanes": self.lanes,
            "lanes_used": self._lanes.used,
            "waiting_rows": self._lanes.rows_waiting,
        }

    def describe(self) -> dict:
        """What the pictures depend on besides the requests, as plain JSON-able values."""
        return {
            "model": self.info.name,
            "lanes": self.lanes,
            "dtype": self.dtype,
            "device": self.device,
            "device_name": _device_name(self._device),
            "compile": self.compile,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[GeneratedImage]:
        """Yield a picture for every request, as they finish; pulls from `requests` only what it needs."""
        source = iter(requests)
        exhausted = False
        try:
            while True:
                wanted = self.room
                if not exhausted and wanted:
                    pulled = list(islice(source, wanted))
                    exhausted = len(pulled) < wanted
                    for request in pulled:
                        self.submit(request)
                if exhausted and self.idle:
                    return
                yield from self.step()
        finally:
            # A caller who stops early must not find the rest among the results of the next call.
            if not self.idle:
                self._drop_everything()

    def submit(self, request: Request) -> int:
        """Take a request in; returns its index. One that can't be run comes out of `step` as failed."""
        index = self._submitted
        self._submitted += 1
        reason = validate(request, self.info)
        if reason is None:
            try:
                self._lanes.submit(self._row(index, request))
            except SamplerError as error:
                reason = str(error)
        if reason is not None:
            self._failed.append(GeneratedImage(request, index, None, error=reason))
        return index

    @torch.inference_mode()
    def step(self) -> list[GeneratedImage]:
        """Go one call of the UNet further; returns what is finished, often nothing."""
        lane_set = self._admit()
        if lane_set is not None:
            self._advance(lane_set, *self._denoise(lane_set))
        return self._retire(lane_set)

    def close(self) -> None:
        """Give the memory back; the engine can't be used afterwards."""
        self._drop_everything()
        del self._family, self._embeddings, self._decoder
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _row(self, index: int, request: Request) -> _Sampling:
        family = self._family
        height, width = request.height or self.info.height, request.width or self.info.width
        table = family.table(request)
        guided = family.guided(request)
        tokens = family.count_tokens(request.prompt)
        return _Sampling(
            index=index,
            shape=family.latent_shape(height, width)[1:],
            width=2 if guided else 1,
            calls=table.calls,
            request=request,
            table=table,
            guidance_scale=float(request.guidance_scale) if guided else 1.0,
            prompt_tokens=tokens,
            prompt_truncated=tokens > self.info.max_tokens,
        )

    def _admit(self) -> LaneSet | None:
        lane_set = self._lanes.select()
        if lane_set is None:
            return None
        rows = self._lanes.admit(lane_set)
        if not rows:
            return lane_set
        family = self._family
        slots = self._slots.get(lane_set.shape)
        shape = (self._family.unet.config.in_channels, *lane_set.shape)
        if slots is None:
            slots = self._slots[lane_set.shape] = Slots(shape, lane_set.size, self._device)
        waiting = islice(self._lanes.waiting(lane_set.shape), LOOK_AHEAD)
        upcoming = [text for row in waiting for text in family.texts(row.request)]
        texts = {row: family.texts(row.request) for row in rows}
        self._embeddings.get([text for row in rows for text in texts[row]], upcoming)
        for row in rows:
            row.generator = torch.Generator().manual_seed(int(row.request.seed))
            latents = family.start_latents(shape, row.generator) * row.table.init_noise_sigma
            encoded = self._embeddings.get(texts[row])
            slots.admit(row, latents, family.conditioning(row.request, encoded, shape))
        return lane_set

    def _denoise(self, lane_set: LaneSet) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of the UNet: what it predicts, and the numbers that say what becomes of it."""
        self._lane_calls += lane_set.size
        self._lane_calls_used += lane_set.size - lane_set.free
        slots = self._slots[lane_set.shape]
        numbers = numbers_of(((row, row.table, row.guidance_scale) for row in lane_set.rows), lane_set.size)
        numbers = send(numbers, self._device)
        return self._family.denoise(*slots.inputs(numbers), slots.conditioning), numbers

    def _advance(self, lane_set: LaneSet, outputs: torch.Tensor, numbers: torch.Tensor) -> None:
        noise = self._draw_noise(lane_set)
        depth = max(row.table.depth for row in lane_set.rows)
        self._slots[lane_set.shape].advance(outputs, numbers, noise, depth)
        self._lanes.advance(lane_set)

    def _draw_noise(self, lane_set: LaneSet) -> torch.Tensor | None:
        """What each row's generator gives for this call, in float32 on the CPU, as diffusers would draw it."""
        slots = self._slots[lane_set.shape]
        noise = None
        for row in lane_set.rows:
            if not row.table.draws[row.call]:
                continue
            # Some samplers draw where the coefficient is 0; the generator must move on all the same.
            drawn = torch.randn(1, *slots.latents.shape[1:], generator=row.generator)
            if row.table.noise[row.call]:
                noise = torch.zeros(slots.latents.shape) if noise is None else noise
                noise[row.lane] = drawn[0]
        return None if noise is None else send(noise, self._device)

    def _retire(self, lane_set: LaneSet | None) -> list[GeneratedImage]:
        if lane_set is not None:
            slots = self._slots[lane_set.shape]
            for row in self._lanes.finished(lane_set):
                self._decoder.add(row, slots.latents[row.lane].clone())
                self._lanes.retire(lane_set, row)
            if self._lanes.release(lane_set):
                del self._slots[lane_set.shape]
        images = list(self._failed)
        self._failed.clear()
        return images + [self._image(decoded) for decoded in self._decoder.poll(flush=self._lanes.idle)]

    def _image(self, decoded: Decoded) -> GeneratedImage:
        row = decoded.row
        return GeneratedImage(
            row.request,
            row.index,
            decoded.pixels,
            error=None if decoded.pixels is not None else "the picture has values that are not finite",
            prompt_tokens=row.prompt_tokens,
            prompt_truncated=row.prompt_truncated,
        )

    def _drop_everything(self) -> None:
        self._lanes = Lanes(self._lanes.lanes, self._lanes.base)
        self._slots.clear()
        self._decoder = Decoder(self._family, self._decoder.batch)
        self._failed.clear()


def _decode_batch(lanes: int) -> int:
    """Rows a call of the VAE: enough to keep a device busy, few enough to come together soon."""
    return 2 if lanes < 16 else 4


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
