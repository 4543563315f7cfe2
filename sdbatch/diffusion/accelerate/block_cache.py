"""A transformer's blocks after the first, computed on some calls only. Changes the picture.

Between calls, what these blocks add to the picture's tokens changes little. A call can run the first block alone, and
add what the others added in an earlier call. First-Block-Cache (ParaAttention) does the same on calls that it chooses
by the outputs of the whole batch; here the calls of a row are fixed, so that its picture depends on no other row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["BlockCache"]


class BlockCache(torch.nn.Module):
    """A diffusion transformer that can run its first block alone.

    Args:
        transformer: not changed; its weights are shared.
        lists: the names of its lists of blocks, in the order in which they run.
        network_of: returns what runs of a transformer, which calls its blocks.
    """

    def __init__(
        self,
        transformer: torch.nn.Module,
        lists: Sequence[str],
        network_of: Callable[[torch.nn.Module], Callable[..., Any]],
    ):
        super().__init__()
        blocks = [(name, block) for name in lists for block in getattr(transformer, name)]
        (of_first, first), (_, last) = blocks[0], blocks[-1]
        first.register_forward_hook(self._keep_first)
        last.register_forward_hook(self._keep_last)
        self._first = self._last = self._added = None
        self.full = network_of(transformer)
        shallow = copy.copy(transformer)
        only = {
            name: _Shortened([_First(first, self)] if name == of_first else [], len(getattr(transformer, name)))
            for name in lists
        }
        shallow._modules = transformer._modules | only
        self.shallow = network_of(shallow)

    def forward(self, *args: Any, features: torch.Tensor | None = None, **named: Any) -> tuple[Any, torch.Tensor]:
        """One call.

        Args:
            features: of an earlier call; None to run all blocks.

        Returns:
            The network's output, and the features: what the blocks after the first added, (L, tokens, width).
        """
        if features is None:
            output = self.full(*args, **named)
            features = self._last[:, -self._first.shape[1] :] - self._first
            self._first = self._last = None
            return output, features
        self._added = features
        output = self.shallow(*args, **named)
        self._added = self._first = None
        return output, features

    def with_added(self, output: Any) -> Any:
        """The first block's output with the features added to the picture's tokens."""
        if isinstance(output, tuple):
            return (*output[:-1], output[-1] + self._added)
        return output + self._added

    def _keep_first(self, block: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._first = _tokens(output)

    def _keep_last(self, block: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._last = _tokens(output)


class _Shortened(torch.nn.ModuleList):
    """A list of blocks of which only some are run. Its length is that of all: Chroma computes offsets from it."""

    def __init__(self, blocks: Sequence[torch.nn.Module], length: int):
        super().__init__()
        for place, block in enumerate(blocks):
            self.add_module(str(place), block)
        self._length = length

    def __len__(self) -> int:
        return self._length


class _First(torch.nn.Module):
    """The first block, and what the others add."""

    def __init__(self, block: torch.nn.Module, cache: BlockCache):
        super().__init__()
        self._block = block
        self._cache = (cache,)  # in a tuple, since the cache is no part of it

    def forward(self, *args: Any, **named: Any) -> Any:
        return self._cache[0].with_added(self._block(*args, **named))


def _tokens(output: Any) -> torch.Tensor:
    """The picture's tokens in a block's output; those of the text may come before them, or apart in a tuple."""
    return output[-1] if isinstance(output, tuple) else output
