"""A pass of the UNet as one CUDA graph: all its kernels launched at once, instead of one by one from Python.

A lane set has one shape for as long as it lives, and its conditioning stays where it is in memory: what a graph
wants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

__all__ = ["CudaGraphs"]

Denoise = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class CudaGraphs:
    """`StableDiffusion.denoise`, recorded at the first call of each shape, and played at every one.

    What it returns lies in memory that the next call overwrites. It is called with the same conditioning, in the
    same place, until `forget`. Where it can't be recorded, it is called as it is.

    Attributes:
        error: why something could not be recorded.
    """

    def __init__(self, denoise: Denoise):
        self._denoise = denoise
        self._graphs: dict[tuple[torch.Size, bool], _Graph] = {}
        self.error: str | None = None

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = latents.shape, features is not None
        if key not in self._graphs and self.error is None:
            try:
                self._graphs[key] = _Graph(self._denoise, latents, timesteps, conditioning, features)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.error = f"{type(error).__name__}: {error}".splitlines()[0]
        if key in self._graphs:
            return self._graphs[key](latents, timesteps, features)
        return self._denoise(latents, timesteps, conditioning, features)

    def forget(self, shape: tuple[int, int] | None = None) -> None:
        """Give back what belongs to a latent height and width, or everything."""
        self._graphs = {key: graph for key, graph in self._graphs.items() if shape not in (None, tuple(key[0][-2:]))}


class _Graph:
    """The kernels of one shape, and the places in memory from which they read."""

    def __init__(
        self,
        denoise: Denoise,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        features: torch.Tensor | None,
    ):
        self._inputs = [latents.clone(), timesteps.clone()]
        self._features = None if features is None else features.clone()
        run = partial(denoise, *self._inputs, conditioning, self._features)
        current, side = torch.cuda.current_stream(latents.device), torch.cuda.Stream(latents.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            run()  # libraries set up at their first call what must not be recorded
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads copy pictures and allocate pinned memory meanwhile, which is no business of this recording.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = run()

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        for kept, given in zip(self._inputs, (latents, timesteps), strict=True):
            kept.copy_(given)
        if self._features is not None:
            self._features.copy_(features)
        self._graph.replay()
        return self._outputs
