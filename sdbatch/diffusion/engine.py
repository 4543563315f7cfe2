"""`Engine`: continuous batching of text-to-image requests."""

from __future__ import annotations

import platform
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from sdbatch.diffusion.calibration import calibrate
from sdbatch.diffusion.cpu import keep_freed_memory
from sdbatch.diffusion.decoding import Decoded, Decoder
from sdbatch.diffusion.lanes import Lanes, LaneSet, halved
from sdbatch.diffusion.loading import load_family, resolve_device, resolve_dtype
from sdbatch.diffusion.models import ModelInfo, inspect_model
from sdbatch.diffusion.quantization import quantize_int8
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.rescue import Rescue
from sdbatch.diffusion.sampling import Sampling, SamplingRow
from sdbatch.diffusion.validation import validate
from sdbatch.errors import SamplerError, UsageError

__all__ = ["Engine"]


class Engine:
    """Runs many different requests through one UNet at once.

    The UNet, the text encoder and the VAE always run at the same batch shapes, so a request's picture depends
    on nothing but the request, the model and these settings: not on its neighbours, nor on the order of
    submission. An engine serves one caller at a time.

    Args:
        model: "tiny", the packaged model; a folder in diffusers' format; a hub id such as "org/name".
        lanes: even batch size of the UNet at the model's own picture size, of which a request with guidance
            takes two; None for as many as fit.
        dtype: "auto" (fp16 on CUDA, fp32 on a CPU), "fp16", "bf16" or "fp32".
        device: "auto", "cpu" or "cuda".
        threads: a CPU's threads for one operation, of the whole process; None for as many as torch has. Rounding can
            depend on it.
        compile: "on" or "off": whether the UNet goes through torch.compile at the model's own size, and on CUDA its
            passes are played from CUDA graphs where that gives the same bits; "auto" is on where there is a GPU
            and a compiler.
        revision, variant: of a model on the hub, of its weight files.
        quantization: "int8" keeps the UNet's weights in eight bits, which takes less memory and changes the picture;
            "none".
        deep_cache: the UNet's inner layers run at every so-manieth call of a row only (DeepCache); 1 for at every
            one. More is faster, and changes the picture.

    Attributes:
        info: what the model's folder says of itself.
        family: the model in memory.
        device, dtype, compile: the settings, resolved.

    Raises:
        ModelError: the model can't be found, read or run.
        UsageError: a setting that makes no sense.
        RunError: `compile` is "on" and fails, or the model does not fit into the device's memory.
    """

    def __init__(
        self,
        model: str | Path = "tiny",
        *,
        lanes: int | None = 16,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        compile: str = "auto",
        revision: str | None = None,
        variant: str | None = None,
        quantization: str = "none",
        deep_cache: int = 1,
    ):
        if lanes is not None and (lanes < 2 or lanes % 2):
            raise UsageError(f"lanes must be an even number of at least 2, not {lanes}")
        if compile not in ("auto", "on", "off"):
            raise UsageError(f"compile {compile!r} is none of auto, on, off")
        if quantization not in ("none", "int8"):
            raise UsageError(f"quantization {quantization!r} is none of none, int8")
        if deep_cache < 1:
            raise UsageError(f"deep_cache must be at least 1, not {deep_cache}")
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = resolve_device(device)
        self.device = str(self._device)
        self.dtype = resolve_dtype(dtype, self._device)
        self.info: ModelInfo = inspect_model(model, revision=revision, variant=variant)
        if self._device.type == "cpu":
            keep_freed_memory()
        self.family = load_family(self.info, self.dtype, self._device)
        self._quantization = quantization
        if quantization == "int8":
            quantize_int8(self.family.unet)
        if deep_cache > 1:
            self.family.cache_deep_features()
        self._found = calibrate(self.family, lanes, compile)
        self.compile = self._found.compile
        self._out_of_memory = list(self._found.out_of_memory)
        own_shape = self.family.latent_shape(self.info.height, self.info.width)[1:]
        self._lanes = Lanes(self._found.lanes, own_shape, deep_cache)
        self._sampling = Sampling(self.family, cuda_graphs=self._found.cuda_graph_error is None)
        self._decoder = Decoder(self.family, _decode_batch(self._found.lanes, self._device))
        self._submitted = 0
        self._lane_calls = self._lane_calls_used = 0
        self._failed: deque[GeneratedImage] = deque()
        self._rescue = Rescue(self._float32, possible=self.dtype != "fp32")

    @property
    def lanes(self) -> int:
        """Lanes at the model's own size; fewer than at the start if memory ran out."""
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
        """UNet calls times lanes so far, those that held a row, halvings; lanes, those in use and rows waiting now."""
        return {
            "lane_calls": self._lane_calls,
            "lane_calls_used": self._lane_calls_used,
            "halvings": len(self._out_of_memory),
            "lanes": self.lanes,
            "lanes_used": self._lanes.used,
            "waiting_rows": self._lanes.rows_waiting,
        }

    def describe(self) -> dict:
        """What the pictures depend on besides the requests, and what happened, as plain JSON-able values.

        `lane_invariant` is what a check at the start found: whether lanes and neighbours change no bit;
        None if the device was too slow to tell.
        """
        return {
            "model": self.info.name,
            "lanes": self.lanes,
            "decode_batch": self._decoder.batch,
            "dtype": self.dtype,
            "device": self.device,
            "device_name": _device_name(self._device),
            "threads": torch.get_num_threads() if self._device.type == "cpu" else None,
            "compile": self.compile,
            "compile_error": self._found.compile_error,
            "cuda_graph_error": self._found.cuda_graph_error,
            "quantization": self._quantization,
            "deep_cache": self._lanes.deep_interval,
            "lane_invariant": self._found.lane_invariant,
            "out_of_memory": list(self._out_of_memory),
            "torch": str(torch.__version__),  # a TorchVersion would bring in torch wherever it is unpickled
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[GeneratedImage]:
        """Yield a picture for every request, as they finish; pulls from `requests` only what it needs."""
        source = iter(requests)
        exhausted = False
        try:
            while True:
                wanted = self.room
                if wanted and not exhausted:
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
                self._lanes.submit(self._sampling.row(index, request))
            except SamplerError as error:
                reason = str(error)
        if reason is not None:
            self._failed.append(GeneratedImage(request, index, None, error=reason))
        return index

    @torch.inference_mode()
    def step(self) -> list[GeneratedImage]:
        """Go one pass of the UNet further; returns what is finished, often nothing."""
        lane_set = self._lanes.select()
        if lane_set is not None:
            try:
                self._admit(lane_set)
                self._advance(lane_set, *self._denoise(lane_set))
                self._retire(lane_set)
            except torch.OutOfMemoryError as error:
                # The frames that it went through hold the very tensors that take up the memory.
                traceback.clear_frames(error.__traceback__)
                self._shrink(lane_set)
        return self._results()

    def close(self) -> None:
        """Give the memory back; the engine can't be used afterwards."""
        self._drop_everything()
        self._rescue.close()
        self.family = self._sampling = self._decoder = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _admit(self, lane_set: LaneSet) -> None:
        rows = self._lanes.admit(lane_set)
        self._sampling.admit(lane_set, rows, self._lanes.waiting(lane_set.shape))

    def _denoise(self, lane_set: LaneSet) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of the UNet: what it predicts, and the numbers that say what becomes of it."""
        self._lane_calls += lane_set.size
        self._lane_calls_used += lane_set.size - lane_set.free
        return self._sampling.denoise(lane_set)

    def _advance(self, lane_set: LaneSet, outputs: torch.Tensor, numbers: torch.Tensor) -> None:
        self._sampling.advance(lane_set, outputs, numbers)
        for row in self._lanes.advance(lane_set):
            self._sampling.narrow(row)

    def _retire(self, lane_set: LaneSet) -> None:
        for row in self._lanes.finished(lane_set):
            self._decoder.add(row, self._sampling.latents(row))
            self._lanes.retire(lane_set, row)
        if self._lanes.release(lane_set):
            self._sampling.release(lane_set)

    def _results(self) -> list[GeneratedImage]:
        """What has failed or been decoded since the last call."""
        decoded = self._decoder.poll(flush=self._lanes.idle)
        failed = [self._failed.popleft() for _ in range(len(self._failed))]
        return failed + [self._image(row) for row in decoded]

    def _image(self, decoded: Decoded) -> GeneratedImage:
        pixels, error = decoded.pixels, decoded.error
        if pixels is None and error is None:
            pixels, error = self._rescue.pixels(decoded)
        row = decoded.row
        return self._result(row, pixels, error)

    def _result(self, row: SamplingRow, pixels: np.ndarray | None, error: str | None) -> GeneratedImage:
        return GeneratedImage(
            row.request,
            row.index,
            pixels,
            error=error,
            prompt_tokens=row.prompt_tokens,
            prompt_truncated=row.prompt_tokens > self.info.max_tokens,
        )

    def _shrink(self, lane_set: LaneSet) -> None:
        """Out of memory: halve the lanes and sample anew; rows for which two lanes are too many fail."""
        lanes, size = self.lanes, lane_set.size
        self._sampling.clear()
        if lanes > 2 and size > 2:
            self._lanes.rebuild(halved(lanes))
            self._out_of_memory.append(f"{lanes} lanes halved to {self.lanes} after {self._submitted} rows")
        else:
            for row in list(lane_set.rows):
                self._lanes.retire(lane_set, row)
                error = f"out of memory with no more than {size} lanes at this size"
                self._failed.append(self._result(row, None, error))
            self._lanes.rebuild(lanes)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _float32(self) -> Engine:
        return Engine(
            self.info.folder,
            lanes=2,
            dtype="fp32",
            device=self.device,
            compile="off",
            variant=self.info.variant,
            quantization=self._quantization,
            deep_cache=self._lanes.deep_interval,
        )

    def _drop_everything(self) -> None:
        self._lanes = Lanes(self._lanes.lanes, self._lanes.base, self._lanes.deep_interval)
        self._sampling.clear()
        self._decoder = Decoder(self.family, self._decoder.batch)
        self._failed.clear()


def _decode_batch(lanes: int, device: torch.device) -> int:
    """Rows a call of the VAE: enough to keep a device busy, few enough to come together soon."""
    if device.type == "cpu" and lanes >= 32:
        return 8
    return 2 if lanes < 16 else 4


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
