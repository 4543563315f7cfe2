"""`Engine`: continuous batching of text-to-image requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from sdbatch.diffusion.accelerate.cpu import keep_freed_memory
from sdbatch.diffusion.accelerate.quantization import quantize_int8
from sdbatch.diffusion.adapters.control_loading import controlnet_loader
from sdbatch.diffusion.adapters.control_nets import ControlNets
from sdbatch.diffusion.adapters.ip_adapter_loading import ip_adapter_loader
from sdbatch.diffusion.adapters.ip_adapter_nets import IpAdapters
from sdbatch.diffusion.adapters.lora_rows import Lora
from sdbatch.diffusion.decoding import Decoded, Decoder
from sdbatch.diffusion.device.calibration import calibrate
from sdbatch.diffusion.device.hardware import describe_device
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.numerics import describe_numerics
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.lanes import Lanes, LaneSet, halved
from sdbatch.diffusion.models.inspection import ModelInfo, inspect_model
from sdbatch.diffusion.models.loading import load_family, resolve_device, resolve_dtype
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.rescue import Rescue
from sdbatch.diffusion.sampling import Sampling, SamplingRow
from sdbatch.diffusion.tasks import ENGINE_TASKS
from sdbatch.diffusion.validation import validate
from sdbatch.errors import AdapterError, PictureError, PromptError, SamplerError, UsageError

__all__ = ["Engine"]


class Engine:
    """Runs many different requests through one UNet at once.

    The UNet, the text encoder and the VAE always run at the same batch shapes, so a request's picture depends
    on nothing but the request, the model and these settings: not on its neighbours, nor on the order of
    submission. An engine serves one caller at a time.

    Args:
        model: "tiny", the packaged model; a folder in diffusers' format; a single-file checkpoint; a hub id such as
            "org/name"; or what `inspect_model` returned.
        lanes: even batch size of the UNet at the model's own picture size, of which a request with guidance
            takes two; None for as many as fit.
        dtype: "auto" (on CUDA the family's own, fp16 or bf16; fp32 on a CPU), "fp16", "bf16" or "fp32".
        device: "auto", "cpu" or "cuda".
        threads: a CPU's threads for one operation, of the whole process; None for as many as torch has. Rounding can
            depend on it.
        compile: "on" or "off": whether the UNet (on CUDA the VAE's decoder, too) goes through torch.compile at the
            model's own size, and on CUDA the UNet's passes are played from CUDA graphs where that gives the same bits;
            "auto" is on where there is a GPU and a compiler.
        revision, variant: of a model on the hub, of its weight files.
        quantization: "int8" keeps the UNet's weights in eight bits, which takes less memory and changes the picture;
            "none".
        deep_cache: the UNet's inner layers run at every so-manieth call of a row only (DeepCache); 1 for at every
            one. More is faster, and changes the picture.
        merged: LoRAs that are added to the weights, for all rows.
        find_adapter: where on this machine lies what a row calls by a name, such as its ControlNet; by default names
            are local folders and hub ids.

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
        model: str | Path | ModelInfo = "tiny",
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
        merged: Sequence[Lora] = (),
        find_adapter: Callable[[str], Path] | None = None,
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
        is_inspected = isinstance(model, ModelInfo)
        self.info = model if is_inspected else inspect_model(model, revision=revision, variant=variant)
        self.dtype = resolve_dtype(dtype, self._device, self.info)
        if self._device.type == "cpu":
            keep_freed_memory()
        self.family = load_family(self.info, self.dtype, self._device, merged)
        self._merged = tuple(merged)
        self._quantization = quantization
        if quantization == "int8":
            quantize_int8(self.family.denoiser, self.family.keep_whole())
        self._find_adapter = find_adapter
        self._bring_adapters(deep_cache)
        if deep_cache > 1:
            self.family.cache_deep_features()
        self._found = calibrate(self.family, lanes, compile)
        self.compile = self._found.compile
        self._out_of_memory = list(self._found.out_of_memory)
        own_shape = self.family.latent_shape(self.info.height, self.info.width)[1:]
        least = max(2 * -(-ENGINE_TASKS[task].branches // 2) for task in self.info.tasks)
        self._lanes = Lanes(self._found.lanes, own_shape, deep_cache, least)
        self._sampling = Sampling(self.family, cuda_graphs=self._found.cuda_graph_error is None)
        self._decoder = Decoder(self.family, self._found.decode_batch, self._make_room)
        self._submitted = 0
        self._lane_calls = self._lane_calls_used = 0
        self._failed: deque[GeneratedImage] = deque()
        self._rescue = Rescue(self._float32, self._make_room, possible=self.dtype != "fp32")

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

        `checks` is what was found out about this device, by network and size: whether lanes and neighbours change no
        bit; `lane_invariant` sums it up. None if the device was too slow to tell.
        """
        return {
            "model": self.info.name,
            "lanes": self.lanes,
            "decode_batch": self._decoder.batch,
            "dtype": self.dtype,
            "device": self.device,
            **describe_device(self._device),
            "numerics": describe_numerics(self._device, tf32_decoder=self.family.tf32_decoder),
            "attention": self._found.attention,
            "threads": torch.get_num_threads() if self._device.type == "cpu" else None,
            "compile": self.compile,
            "compile_error": self._found.compile_error,
            "cuda_graph_error": self._found.cuda_graph_error or self._sampling.graph_error,
            "quantization": self._quantization,
            "deep_cache": self._lanes.deep_interval,
            "checks": dict(self._found.checks.found),
            "lane_invariant": self._found.checks.lane_invariant,
            "out_of_memory": [*self._out_of_memory, *self._decoder.shortages],
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
            except (SamplerError, PictureError, PromptError, AdapterError) as error:
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
                self._found.checks.at(lane_set.shape, lane_set.size, self._decoder.batch)
                self._admit(lane_set)
                if lane_set.rows:
                    self._advance(lane_set, *self._denoise(lane_set))
                self._retire(lane_set)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                forget(error)
                self._shrink(lane_set)
        return self._results()

    def close(self) -> None:
        """Give the memory back; the engine can't be used afterwards."""
        self._drop_everything()
        self._rescue.close()
        self.family = self._sampling = self._decoder = None
        release_cached(self._device)

    def _admit(self, lane_set: LaneSet) -> None:
        rows = self._lanes.admit(lane_set, self._sampling.may_enter(lane_set))
        for row, reason in self._sampling.admit(lane_set, rows, self._lanes.waiting(lane_set)):
            self._lanes.retire(lane_set, row)
            self._failed.append(self._result(row, None, reason))

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
            return self._result(decoded.row, *self._rescue.pixels(decoded, partial(self._finish, decoded.row)))
        if pixels is not None:
            pixels, error = self._finish(decoded.row, pixels)
        return self._result(decoded.row, pixels, error)

    def _finish(self, row: SamplingRow, pixels: np.ndarray) -> tuple[np.ndarray | None, str | None]:
        """What comes out of a row whose decoded pixels these are, or None and the reason."""
        try:
            return row.task.finish(row.request, self.info, pixels), None
        except PictureError as error:
            return None, str(error)

    def _result(self, row: SamplingRow, pixels: np.ndarray | None, error: str | None) -> GeneratedImage:
        return GeneratedImage(
            row.request,
            row.index,
            pixels,
            error=error,
            prompt_tokens=row.prompt_tokens,
            prompt_truncated=row.prompt_truncated,
        )

    def _shrink(self, lane_set: LaneSet) -> None:
        """Out of memory: halve the lanes and start the rows again; rows for which two lanes are too many fail."""
        lanes, size = self.lanes, lane_set.size
        self._sampling.clear()
        if self._rescue.close():  # it takes more than any lanes, and comes back when it is needed
            self._lanes.rebuild(lanes)
        elif lanes > 2 and size > 2:
            self._halve_lanes()
        else:
            for row in list(lane_set.rows):
                self._lanes.retire(lane_set, row)
                error = f"out of memory with no more than {size} lanes at this size"
                self._failed.append(self._result(row, None, error))
            self._lanes.rebuild(lanes)
        release_cached(self._device)

    def _make_room(self) -> bool:
        """Give back what sampling holds, and start its rows again in fewer lanes; False if it holds nothing."""
        if not self._sampling.holds_memory:
            return False
        self._sampling.clear()
        self._halve_lanes()
        release_cached(self._device)
        return True

    def _halve_lanes(self) -> None:
        lanes = self.lanes
        self._lanes.rebuild(halved(lanes))
        if self.lanes < lanes:
            self._out_of_memory.append(f"{lanes} lanes halved to {self.lanes} after {self._submitted} rows")

    def _bring_adapters(self, deep_cache: int) -> None:
        info, family = self.info, self.family
        declared = {field.name for field in family_named(info.family).fields}
        if "controlnet" in declared and deep_cache == 1:
            load = controlnet_loader(info, family.device, family.dtype, self._find_adapter)
            family.controls = ControlNets(load, info.vae_scale)
        if "ip_adapter" in declared:
            family.ip_adapters = IpAdapters(ip_adapter_loader(info, family.denoiser, self._find_adapter))

    def _float32(self) -> Engine:
        return Engine(
            self.info,
            lanes=2,
            dtype="fp32",
            device=self.device,
            compile="off",
            quantization=self._quantization,
            deep_cache=self._lanes.deep_interval,
            merged=self._merged,
            find_adapter=self._find_adapter,
        )

    def _drop_everything(self) -> None:
        lanes = self._lanes
        self._lanes = Lanes(lanes.lanes, lanes.base, lanes.deep_interval, lanes.least)
        self._sampling.clear()
        self._decoder.clear()
        self._failed.clear()
