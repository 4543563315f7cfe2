"""Speed-ups for CPUs: linear layers through oneDNN, and memory that is kept between calls.

torch multiplies float32 matrices with MKL, which does not use AVX-512 on AMD processors: 106 GFLOP/s per core,
while oneDNN, which torch uses for convolutions, reaches 220 on the same EPYC. A small UNet spends a third of
its time in linear layers.
"""

from __future__ import annotations

import ctypes

import torch

__all__ = ["keep_freed_memory", "use_onednn"]

# mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and glibc's maximum of the latter.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Have this process's allocator keep freed memory for the next call of the UNet.

    glibc returns large blocks to the system at once and requests them again, page by page: with `tiny` in 32
    lanes 8,460 page faults per call, a quarter of its time. Does nothing if the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)


class OneDnnLinear(torch.nn.Linear):
    """A linear layer through oneDNN, as exact as torch's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            torch.compiler.is_compiling()
        ):  # the compiler supports this operator only for weights that it has packed itself
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


@torch.inference_mode()
def use_onednn(module: torch.nn.Module) -> None:
    """Have the float32 linear layers of a module on the CPU use oneDNN, if this torch offers it.

    Its use depends only on the version of torch, never on a timing, because it affects rounding.
    """
    linear = torch.nn.Linear(16, 16)
    x = torch.ones(2, 16)
    expected = linear(x)
    linear.__class__ = OneDnnLinear
    try:
        works = torch.allclose(linear(x), expected, atol=1e-5)
    except (AttributeError, RuntimeError):
        # The operator is torch's own, for its compiler: it may be missing from a build or change its
        # arguments.
        return
    if not works:
        return
    for layer in module.modules():
        if type(layer) is torch.nn.Linear:
            # Changes the class in place, so that references to the layer, its name and its weights stay valid.
            layer.__class__ = OneDnnLinear
