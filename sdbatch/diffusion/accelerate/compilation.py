"""torch.compile for the engine: fixed shapes, no choices by timing, one cache for all processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["CompiledBlocks", "CompiledShapes", "compiled", "compiled_decoder", "keep_compiled"]

# Compiler processes per worker: the node's other workers compile at the same time.
COMPILE_THREADS = 8
SHAPES_PER_SIZE = 14


def compiled(
    call: Callable[..., Any], device: torch.device, sizes: int = 1, blocks: Iterable[torch.nn.Module] | None = None
) -> Callable[..., Any]:
    """`call` through torch.compile, compiled separately for each shape, without dynamic shapes.

    Args:
        sizes: number of picture sizes that it will be called with.
        blocks: compile these, which it calls, instead of the whole (`CompiledBlocks`).

    On CUDA Inductor must not choose reductions by timing them: two processes could choose differently, and their
    pictures would differ in the last bits. For the same reason no mode that autotunes is used.
    """
    if blocks is not None:
        return CompiledBlocks(call, blocks, device, sizes)
    # Beyond this limit torch stops compiling. Halved lanes and deep features count as further shapes.
    limits = torch._dynamo.config
    limits.cache_size_limit = max(limits.cache_size_limit, SHAPES_PER_SIZE * sizes)
    options = {"deterministic": True} if device.type == "cuda" and _can_be_deterministic() else None
    return torch.compile(call, dynamic=False, options=options)


class CompiledShapes:
    """A compiled call, and the shapes of its first input at which it is used; other shapes run uncompiled.

    Args:
        call: from `compiled`; None if nothing is compiled.
    """

    def __init__(self, call: Callable[..., Any] | None = None, shapes: Iterable[Sequence[int]] = ()):
        self.call = call
        self._shapes = frozenset(map(tuple, shapes))

    def __bool__(self) -> bool:
        return self.call is not None

    def at(self, shape: Sequence[int], uncompiled: Callable[..., Any]) -> Callable[..., Any]:
        """The call to use at this shape."""
        return self.call if self.call is not None and tuple(shape) in self._shapes else uncompiled


def compiled_decoder(
    vae: Any,
    device: torch.device,
    shapes: Collection[tuple[int, int, int]],
    batch: int,
    blocks: tuple[type[torch.nn.Module], ...] | None = None,
) -> CompiledShapes:
    """A VAE's `decode`, compiled on CUDA for `batch` latents of these shapes; elsewhere it stays uncompiled.

    Without compilation, group norms copy channels_last to another layout and back.

    Args:
        shapes: latents (C, h, w) as the engine has them; the VAE's own may be packed otherwise.
        blocks: compile the decoder's blocks of these classes instead of the whole.
    """
    if device.type != "cuda":
        return CompiledShapes()
    repeated = None if blocks is None else [block for block in vae.decoder.modules() if isinstance(block, blocks)]
    return CompiledShapes(compiled(vae.decode, device, len(shapes), repeated), [(batch, *shape) for shape in shapes])


class CompiledBlocks:
    """A network whose repeated blocks are compiled, not the network as a whole (regional compilation).

    Blocks of a class that take the same shapes share compiled code, so a network of many equal blocks starts sooner.
    What is between them is not fused. The blocks are compiled during this object's calls only.

    Args:
        network: what is called; it calls the blocks.
        blocks: the blocks, none inside another.
        sizes: as in `compiled`.
    """

    def __init__(
        self, network: Callable[..., Any], blocks: Iterable[torch.nn.Module], device: torch.device, sizes: int = 1
    ):
        blocks = list(blocks)
        alike = Counter(map(type, blocks))
        self._network = network
        self._forwards = [(block, compiled(block.forward, device, sizes * alike[type(block)])) for block in blocks]

    def __call__(self, *args: Any, **named: Any) -> Any:
        for block, forward in self._forwards:
            block.forward = forward
        try:
            return self._network(*args, **named)
        finally:
            for block, _ in self._forwards:
                del block.forward


def keep_compiled(folder: Path, threads: int = COMPILE_THREADS) -> None:
    """Have this process compile with at most `threads` helpers and keep compiled code in a folder.

    All processes of a node and later runs share the folder. Environment variables (TORCHINDUCTOR_CACHE_DIR,
    TORCHINDUCTOR_COMPILE_THREADS) take precedence.
    """
    import torch._inductor.config as inductor

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        inductor.compile_threads = min(threads, os.cpu_count() or 1)


def _can_be_deterministic() -> bool:
    """Whether this torch has the option; older releases lack it."""
    import torch._inductor.config as inductor

    return hasattr(inductor, "deterministic")
