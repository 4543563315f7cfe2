"""`Engine`: continuous batching of image generation requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from sdbatch.diffusion.accelerate.cpu import keep_freed_memory
from sdbatch.diffusion.accelerate.quantization import check_quantization
from sdbatch.diffusion.adapters.lora_rows import Lora
from sdbatch.diffusion.decoding import Decoded, Decoder
from sdbatch.diffusion.device.calibration import calibrate
from sdbatch.diffusion.device.hardware import describe_device
from sdbatch.diffusion.device.headroom import releases_text_encoders
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.numerics import describe_numerics
from sdbatch.diffusion.engine_choices import LANES_ON_CPU
from sdbatch.diffusion.lanes import Lanes, LaneSet
from sdbatch.diffusion.memory_policy import MemoryPolicy
from sdbatch.diffusion.models.inspection import ModelInfo, inspect_model
from sdbatch.diffusion.models.loading import resolve_device, resolve_dtype
from sdbatch.diffusion.preparation import Options, prepared_family
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.rescue import Rescue
from sdbatch.diffusion.sampling import NoRoomForRow, Sampling
from sdbatch.diffusion.sampling_row import SamplingRow, sampling_row
from sdbatch.diffusion.tasks import ENGINE_TASKS
from sdbatch.diffusion.validation import check_compile_sizes, validate
from sdbatch.errors import AdapterError, PictureError, PromptError, SamplerError, UsageError
from sdbatch.option_kinds import Sizes

__all__ = ["Engine"]

# Submissions before a step, as a multiple of the lanes. A step on a GPU hides those before the next one, but the first
# would have to wait for thousands of rows.
SUBMISSIONS = 4


class Engine:
    """Runs many different requests through one denoiser at once.

    The denoiser, the text encoder and the VAE always run at the same batch shapes, so a request's picture depends
    only on the request, the model and these settings: not on its neighbours or on the order of submission. An
    engine serves one caller at a time.

    Args:
        model: "tiny", the packaged model; a folder in diffusers' format; a single-file checkpoint; a hub id such as
            "org/name"; or the result of `inspect_model`.
        lanes: even batch size of the denoiser at the model's own picture size; a request with guidance takes two
            lanes; None for as many as fit.
        dtype: "auto" (on CUDA the family's own, fp16 or bf16; fp32 on a CPU), "fp16", "bf16" or "fp32".
        device: "auto", "cpu" or "cuda".
        threads: CPU threads per operation, for the whole process; None for torch's default. Rounding can depend on
            it.
        compile: "on": the denoiser (on CUDA also the VAE's decoder) is compiled with torch.compile for the model's own
            size, and on CUDA the denoiser's passes are replayed from CUDA graphs if these give the same bits; "blocks":
            the same, but only their repeated blocks are compiled; "off"; "auto" is "on" if there is a GPU and a
            compiler.
        compile_sizes: further picture sizes to compile, such as "768x512,512x768" (width x height), at most 16.
        revision, variant: the revision of a model on the hub; the variant of its weight files.
        quantization: "int8" stores the denoiser's weights in eight bits, which takes less memory and changes the
            picture; "fp8" also has its linear layers multiply in eight bits, which needs a GPU of compute capability
            8.9 or newer, or a CPU, which emulates it; "none".
        deep_cache: run the inner layers of a UNet (DeepCache), or the blocks after the first of a transformer, only on
            every N-th call of a row; 1 for every call. Larger values are faster and change the picture.
        release_text_encoders: "on" or "off": whether text encoders leave the device while the denoiser runs; "auto" is
            "on" if all weights together would leave a GPU too little memory. It changes no picture.
        merged: LoRAs to merge into the weights, for all rows.
        find_adapter: returns the local path of a network that rows name, such as a ControlNet; by default names are
            local folders and hub ids.

    Attributes:
        info: the facts about the model known from its folder.
        family: the loaded model.
        device, dtype, compile: the resolved settings.

    Raises:
        ModelError: the model can't be found, read or run.
        UsageError: an invalid setting.
        RunError: `compile` is "on" and fails, or the model does not fit into the device's memory.
    """

    def __init__(
        self,
        model: str | Path | ModelInfo = "tiny",
        *,
        lanes: int | None = LANES_ON_CPU,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        compile: str = "auto",
        compile_sizes: str = "",
        revision: str | None = None,
        variant: str | None = None,
        quantization: str = "none",
        deep_cache: int = 1,
        release_text_encoders: str = "auto",
        merged: Sequence[Lora] = (),
        find_adapter: Callable[[str], Path] | None = None,
    ):
        if lanes is not None and (lanes < 2 or lanes % 2):
            raise UsageError(f"lanes must be an even number of at least 2, not {lanes}")
        options = Options(
            compile=compile,
            compile_sizes=Sizes().check("compile_sizes", compile_sizes),
            quantization=quantization,
            deep_cache=deep_cache,
            release_text_encoders=release_text_encoders,
            merged=tuple(merged),
            find_adapter=find_adapter,
        )
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = resolve_device(device)
        self.device = str(self._device)
        check_quantization(quantization, self._device)
        is_inspected = isinstance(model, ModelInfo)
        self.info = model if is_inspected else inspect_model(model, revision=revision, variant=variant)
        check_compile_sizes(options.compile_sizes, self.info)
        self.dtype = resolve_dtype(dtype, self._device, self.info)
        if self._device.type == "cpu":
            keep_freed_memory()
        released = releases_text_encoders(
            self.info, self.dtype, self._device, release_text_encoders, options.quantization
        )
        self._options = replace(options, release_text_encoders="on" if released else "off")
        self.family = prepared_family(self.info, self.dtype, self._device, self._options)
        min_lanes = max(2 * -(-ENGINE_TASKS[task].branches // 2) for task in self.info.tasks)
        self._found = calibrate(self.family, lanes, compile, Sizes.sides(options.compile_sizes), min_lanes)
        self.compile = self._found.compile
        own_shape = self.family.latent_shape(self.info.height, self.info.width)[1:]
        self._lanes = Lanes(self._found.lanes, own_shape, deep_cache, min_lanes)
        self._sampling = Sampling(self.family, cuda_graphs=self._found.cuda_graph_error is None)
        self._memory = MemoryPolicy(
            self._lanes, self._sampling, self._device, self.family.residency, self._found.out_of_memory
        )
        self._decoder = Decoder(self.family, self._found.decode_batch, self._memory.make_room)
        self._submitted = self._submitted_before = 0
        self._lane_calls = self._lane_calls_used = 0
        self._failed: deque[GeneratedImage] = deque()
        self._rescue = Rescue(self._float32, self._memory.make_room, possible=self.dtype != "fp32")

    @property
    def lanes(self) -> int:
        """Lanes at the model's own size; fewer than at the start if memory ran out."""
        return self._lanes.lanes

    @property
    def room(self) -> int:
        """The number of further requests worth submitting before the next step."""
        room = self._lanes.room
        if self.family.residency is not None:  # the more texts are encoded at once, the better
            return room
        return max(0, min(room, SUBMISSIONS * self.lanes - (self._submitted - self._submitted_before)))

    @property
    def idle(self) -> bool:
        """Whether no row is waiting, sampling or decoding, and all results have been returned."""
        return self._lanes.idle and self._decoder.idle and not self._failed

    @property
    def counters(self) -> dict[str, float]:
        """Totals: calls times lanes, those that held a row, halvings. Now: lanes, lanes in use, waiting rows."""
        return {
            "lane_calls": self._lane_calls,
            "lane_calls_used": self._lane_calls_used,
            "halvings": len(self._memory.halvings),
            "lanes": self.lanes,
            "lanes_used": self._lanes.used,
            "waiting_rows": self._lanes.rows_waiting,
        }

    def describe(self) -> dict:
        """What the pictures depend on besides the requests, and special events, as JSON values.

        `checks` has the results of the device checks, by network and size: whether bits depend neither on lanes nor
        on neighbours; `lane_invariant` summarises them. None if the device was too slow for a check.
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
            "compile_sizes": self._options.compile_sizes if self.compile != "off" else "",
            "compile_error": self._found.compile_error,
            "cuda_graph_error": self._found.cuda_graph_error or self._sampling.graph_error,
            "quantization": self._options.quantization,
            "deep_cache": self._lanes.deep_interval,
            "text_encoders_released": self._options.release_text_encoders == "on",
            "checks": dict(self._found.checks.found),
            "lane_invariant": self._found.checks.lane_invariant,
            "out_of_memory": [*self._memory.halvings, *self._decoder.shortages],
            "torch": str(torch.__version__),  # unpickling a TorchVersion would import torch
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[GeneratedImage]:
        """Yield an image for every request, as they finish; takes from `requests` only as many as it needs."""
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
            # If the caller stops early, the remaining results must not appear in the next call.
            if not self.idle:
                self._drop_everything()

    def submit(self, request: Request) -> int:
        """Submit a request; returns its index. `step` returns a request that can't be run as failed."""
        index = self._submitted
        self._submitted += 1
        reason = validate(request, self.info)
        if reason is None:
            try:
                self._lanes.submit(sampling_row(self.family, index, request))
            except (SamplerError, PictureError, PromptError, AdapterError) as error:
                reason = str(error)
        if reason is not None:
            self._failed.append(GeneratedImage(request, index, None, error=reason))
        return index

    @torch.inference_mode()
    def step(self) -> list[GeneratedImage]:
        """Run one pass of the denoiser; returns the finished images, often none."""
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
                self._recover(lane_set, error.row if isinstance(error, NoRoomForRow) else None)
        self._submitted_before = self._submitted
        return self._results()

    def make_room(self) -> bool:
        """Release memory of a GPU for others, at the cost of lanes; returns whether there was any to release."""
        if self._device.type == "cpu":
            return False
        return self._rescue.close() or self._memory.make_room()

    def close(self) -> None:
        """Release the memory; the engine can't be used afterwards."""
        self._drop_everything()
        self._rescue.close()
        # Each of them leads to the model.
        self.family = self._found = self._sampling = self._decoder = self._memory = self._rescue = None
        release_cached(self._device)

    def _admit(self, lane_set: LaneSet) -> None:
        rows = self._lanes.admit(lane_set, self._sampling.may_enter(lane_set))
        waiting, elsewhere = self._lanes.waiting(lane_set), self._lanes.waiting_elsewhere(lane_set)
        for row, reason in self._sampling.admit(lane_set, rows, waiting, elsewhere):
            self._lanes.retire(lane_set, row)
            self._failed.append(self._result(row, None, reason))

    def _denoise(self, lane_set: LaneSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one pass of the denoiser; returns its prediction and the coefficients of the step."""
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
        """The images that have failed or been decoded since the last call."""
        decoded = self._decoder.poll(flush=self._lanes.idle)
        failed = [self._failed.popleft() for _ in range(len(self._failed))]
        return failed + [self._image(row) for row in decoded]

    def _image(self, decoded: Decoded) -> GeneratedImage:
        pixels, error = decoded.pixels, decoded.error
        if pixels is None and error is None:
            error = decoded.row.why_not_finite()
        if pixels is None and error is None:
            return self._result(decoded.row, *self._rescue.pixels(decoded, partial(self._finish, decoded.row)))
        if pixels is not None:
            pixels, error = self._finish(decoded.row, pixels)
        return self._result(decoded.row, pixels, error)

    def _finish(self, row: SamplingRow, pixels: np.ndarray) -> tuple[np.ndarray | None, str | None]:
        """The result of a row from its decoded pixels, or None and the reason."""
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

    def _recover(self, lane_set: LaneSet, cause: SamplingRow | None) -> None:
        """Continue after running out of memory; rows that don't fit fail."""
        # The float32 engine takes more memory than lanes, and is created again when needed; so are networks of rows.
        freed = self._rescue.close() or (self.family.nets is not None and self.family.nets.shrink())
        error = f"out of memory with only {lane_set.size} lanes at this size"
        for row in self._memory.recover(lane_set, cause, freed=freed):
            self._failed.append(self._result(row, None, error))

    def _float32(self) -> Engine:
        release = "on" if self._options.release_text_encoders == "on" else "auto"
        options = replace(self._options, compile="off", compile_sizes="", release_text_encoders=release)
        return Engine(self.info, lanes=2, dtype="fp32", device=self.device, **vars(options))

    def _drop_everything(self) -> None:
        self._lanes.clear()
        self._sampling.clear()
        self._decoder.clear()
        self._failed.clear()
