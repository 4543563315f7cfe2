"""A pass of the UNet as one CUDA graph: all its kernels are launched at once, not one by one from Python.

A lane set keeps its shape, and its conditioning keeps its place in memory, as CUDA graphs require.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TypeVar

import torch

from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.side_streams import side_stream
from sdbatch.errors import RunError

__all__ = ["CudaGraphs"]

CUDA = torch.device("cuda")
Outcome = TypeVar("Outcome")
Denoise = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class CudaGraphs:
    """A family's `denoise`, recorded at the first call of each lane set, and replayed at every call.

    All graphs share one memory pool, since no two of them run at a time. Their inputs and outputs are outside
    that pool, so that no graph overwrites another's output. The next call of the same lane set overwrites the
    returned tensor. Until `forget`, every call must have the same conditioning, in the same place. If recording
    is not possible, `denoise` is called directly.

    Attributes:
        error: why a pass could not be recorded.
    """

    def __init__(self, denoise: Denoise):
        self._denoise = denoise
        self._graphs: dict[tuple, _Graph] = {}
        self._pool: object | None = None
        self.error: str | None = None

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        features: torch.Tensor | None = None,
        *,
        place: Hashable = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Family.denoise`.

        Args:
            place: the lane set. Each has its own conditioning in memory, also if shapes are equal.

        Raises:
            RunError: recording failed half-way; this process must not use the device any more.
        """
        # Texts of another length also belong to another lane set.
        lengths = tuple(tensor.shape for tensor in conditioning.values())
        key = place, latents.shape, features is not None, lengths
        if key not in self._graphs and self.error is None:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            try:
                self._graphs[key] = _Graph(self._denoise, self._pool, latents, timesteps, conditioning, features)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.error = f"{type(error).__name__}: {error}".splitlines()[0]
        if key in self._graphs:
            return self._graphs[key](latents, timesteps, features)
        return self._denoise(latents, timesteps, conditioning, features)

    def beside(self, run: Callable[[], Outcome]) -> Outcome:
        """Run a pass that may need memory beside the graphs: of a size not yet recorded, or with adapters.

        If there is too little, the graphs are released for good, which changes no bit, and the pass is repeated.
        """
        try:
            return run()
        except Exception as error:
            if not self._graphs or not is_out_of_memory(error):
                raise
            forget(error)
        self.forget()
        self.error = "too little memory beside them for another kind of pass"
        release_cached(CUDA)
        return run()

    def forget(self, place: Hashable = None) -> None:
        """Release the graphs of a lane set, or all."""
        self._graphs = {key: graph for key, graph in self._graphs.items() if place not in (None, key[0])}
        if not self._graphs:
            self._pool = None  # torch accepts no further graphs in a released pool


class _Graph:
    """The kernels of one shape, with the memory that they read and write."""

    def __init__(
        self,
        denoise: Denoise,
        pool: object,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        features: torch.Tensor | None,
    ):
        self._inputs = [latents.clone(), timesteps.clone()]
        self._features = None if features is None else features.clone()
        run = partial(denoise, *self._inputs, conditioning, self._features)
        current, side = torch.cuda.current_stream(latents.device), side_stream(latents.device, "recording")
        side.wait_stream(current)
        with torch.cuda.stream(side):
            output, made = run()  # libraries set themselves up in their first call, which must not be recorded
        current.wait_stream(side)
        self._output = torch.empty_like(output)
        self._made = torch.empty_like(made) if features is None and made is not None else None
        del output, made
        self._graph = torch.cuda.CUDAGraph()
        self._record(run, pool, side)

    def _record(
        self, run: Callable[[], tuple[torch.Tensor, torch.Tensor | None]], pool: object, side: torch.cuda.Stream
    ) -> None:
        try:
            # Other threads copy pictures and allocate pinned memory meanwhile, which must not fail the recording. By
            # itself torch would record on a stream of the current device, which need not be that of the latents.
            with torch.cuda.graph(self._graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                output, made = run()
                self._output.copy_(output)
                if self._made is not None:
                    self._made.copy_(made)
        except torch.OutOfMemoryError:
            raise  # recording must end properly: ending it raises another error if it has failed
        except RuntimeError as error:
            # The recording stream stays current, and the allocator in the pool: nothing may run after that.
            # Without a cause: if memory ran out, it must not look like a shortage that can be resolved.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RunError(f"recording a pass as a CUDA graph failed half-way ({reason}); use --compile off") from None

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        for kept, given in zip(self._inputs, (latents, timesteps), strict=True):
            kept.copy_(given)
        if self._features is not None:
            self._features.copy_(features)
        self._graph.replay()
        return self._output, self._made if features is None else features
