"""What an engine finds out about its device when it starts: how many lanes fit, whether they are alike."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from sdbatch.diffusion.cuda_graph import CudaGraphs
from sdbatch.diffusion.families import StableDiffusion
from sdbatch.diffusion.lanes import halved
from sdbatch.diffusion.request import Request
from sdbatch.errors import RunError

__all__ = ["Calibration", "calibrate"]

CPU_LANES = 16
# More lanes than this no longer make a large GPU any faster, and the last rows of a run waste them.
MOST_LANES = 64
# Share of the free memory that the UNet may use: the decoder and a fragmented allocator need the rest.
MEMORY_SHARE = 0.7
# A CPU that takes longer for one pass would spend a minute on a check that it has always passed.
PATIENCE_SECONDS = 3.0

Inputs = tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Calibration:
    """What was found out.

    Attributes:
        lanes: at the model's own size; fewer than were asked for if there was no memory for them.
        out_of_memory: how often they were halved, in words.
        compile: whether the UNet is compiled, "on" or "off".
        compile_error: why it is not although it was to be.
        cuda_graph_error: why its passes are not played from CUDA graphs; None if they are.
        lane_invariant: whether lanes and neighbours change no bit; None if the device was too slow to tell.
    """

    lanes: int
    out_of_memory: tuple[str, ...]
    compile: str
    compile_error: str | None
    cuda_graph_error: str | None
    lane_invariant: bool | None


def calibrate(family: StableDiffusion, lanes: int | None, compile: str) -> Calibration:
    """Compile the family's UNet if it is to be, and find out what its device does.

    Args:
        lanes: as many if there is memory for them; None for as many as fit.
        compile: "on", "off", or "auto": on CUDA, where there is a compiler.

    Raises:
        RunError: it can not be compiled although it must, or not even two lanes fit.
    """
    memory = _Memory(family, lanes_that_fit(family) if lanes is None else lanes)
    compiled, compile_error, graph_error = False, None, "compile is off"
    if compile == "on" or (compile == "auto" and family.device.type != "cpu"):
        compile_error = memory.enough_for(partial(warm_up, must_compile=compile == "on"))
        compiled = compile_error is None
    lane_invariant = memory.enough_for(is_lane_invariant)
    if compiled:
        graph_error = memory.enough_for(cuda_graph_error)
    return Calibration(
        lanes=memory.lanes,
        out_of_memory=tuple(memory.shortages),
        compile="on" if compiled else "off",
        compile_error=compile_error,
        cuda_graph_error=graph_error,
        lane_invariant=lane_invariant,
    )


class _Memory:
    """Lanes that there is memory for, as far as it was tried."""

    def __init__(self, family: StableDiffusion, lanes: int):
        self._family = family
        self.lanes = lanes
        self.shortages: list[str] = []

    def enough_for(self, attempt: Callable[[StableDiffusion, int], Any]) -> Any:
        """What `attempt(family, lanes)` gives, with fewer lanes if need be.

        Raises:
            RunError: not even two lanes fit.
        """
        while True:
            try:
                return attempt(self._family, self.lanes)
            except torch.OutOfMemoryError as error:
                # The frames that it went through hold the very tensors that take up the memory.
                traceback.clear_frames(error.__traceback__)
                if self.lanes == 2:
                    info = self._family.info
                    where = f"on {self._family.device} with 2 lanes at {info.height}x{info.width}"
                    raise RunError(f"{info.name} does not fit {where}") from error
            self.shortages.append(f"{self.lanes} lanes halved to {halved(self.lanes)} at the start")
            self.lanes = halved(self.lanes)


@torch.inference_mode()
def lanes_that_fit(family: StableDiffusion) -> int:
    """Lanes at the model's own size: 16 on a CPU, on CUDA as many as memory allows, both even."""
    if family.device.type == "cpu":
        return CPU_LANES
    used = {lanes: _peak_memory(family, lanes) for lanes in (2, 4)}
    a_lane = max(1, (used[4] - used[2]) // 2)
    free, _ = torch.cuda.mem_get_info(family.device)
    lanes = 2 + int((free * MEMORY_SHARE - used[2]) // a_lane)
    return max(2, min(MOST_LANES, lanes) // 2 * 2)


@torch.inference_mode()
def warm_up(family: StableDiffusion, lanes: int, *, must_compile: bool) -> str | None:
    """Run the compiled UNet once at the model's own size.

    Returns:
        None, or why it can not be compiled here; the UNet then runs as it is.

    Raises:
        RunError: it can not be compiled although it must.
    """
    family.compile()
    try:
        _outputs(family.denoise, *_inputs(family, lanes))
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if must_compile:
            raise RunError(f"torch.compile fails on this machine: {error}") from error
        family.decompile()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@torch.inference_mode()
def is_lane_invariant(family: StableDiffusion, lanes: int) -> bool | None:
    """Whether a row's UNet output is the same, to the bit, in any lane and beside any neighbours.

    The same inputs go through the UNet again in reverse order and rotated. None if this device is too slow
    to find out in passing.
    """
    latents, timesteps, conditioning = _inputs(family, lanes)
    start = time.perf_counter()
    straight = _outputs(family.denoise, latents, timesteps, conditioning)
    if family.device.type == "cpu" and time.perf_counter() - start > PATIENCE_SECONDS:
        return None
    for order in (torch.arange(lanes).flip(0), torch.arange(lanes).roll(lanes // 2 - 1)):
        order = order.to(family.device)
        permuted = {name: tensor[order] for name, tensor in conditioning.items()}
        again = _outputs(family.denoise, latents[order], timesteps[order], permuted)
        if not torch.equal(again, straight[:, order]):
            return False
    return True


@torch.inference_mode()
def cuda_graph_error(family: StableDiffusion, lanes: int) -> str | None:
    """Why passes can't be played from CUDA graphs here; None if they can, and give the same bits."""
    if family.device.type != "cuda":
        return "no CUDA device"
    graphs = CudaGraphs(family.denoise)
    inputs = _inputs(family, lanes)
    straight = _outputs(family.denoise, *inputs)
    zeros, twos = (torch.full_like(tensor, value) for tensor, value in zip(inputs[:2], (0, 2), strict=True))
    _outputs(graphs, zeros, twos, inputs[2])  # recorded with other values than they are played with
    if graphs.error is None and not torch.equal(_outputs(graphs, *inputs), straight):
        return "other bits than without"
    return graphs.error


def _outputs(
    denoise: Callable, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What the UNet predicts, (1, L, C, h, w); with DeepCache (2, …), then given the deep features that it made."""
    outputs, features = denoise(latents, timesteps, conditioning)
    outputs = outputs.clone()  # of a CUDA graph, it lies where the next call's will
    if features is None:
        return outputs[None]
    return torch.stack([outputs, denoise(latents, timesteps, conditioning, features)[0]])


def _inputs(family: StableDiffusion, lanes: int) -> Inputs:
    """Something different in every lane, at the model's own size."""
    shape = family.latent_shape(family.info.height, family.info.width)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(lanes, *shape, generator=generator).to(family.device)
    timesteps = torch.linspace(0, family.info.num_train_timesteps - 1, lanes, device=family.device).round()
    request = Request("a calibration picture", guidance_scale=1.0)
    texts = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    encoded = family.encode(texts)
    rows = [{name: tensor[i] for name, tensor in encoded.items()} for i in range(len(texts))]
    named = [family.conditioning(request, [row], shape)[0] for row in islice(cycle(rows), lanes)]
    return latents, timesteps, {name: torch.stack([row[name] for row in named]) for name in named[0]}


def _peak_memory(family: StableDiffusion, lanes: int) -> int:
    """Bytes that a pass takes over what is there already."""
    inputs = _inputs(family, lanes)
    torch.cuda.reset_peak_memory_stats(family.device)
    before = torch.cuda.memory_allocated(family.device)
    family.denoise(*inputs)
    torch.cuda.synchronize(family.device)
    return torch.cuda.max_memory_allocated(family.device) - before
