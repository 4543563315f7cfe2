"""Calibrates an engine to its device at the start: compiles, finds how many lanes fit, and checks the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sdbatch.diffusion.accelerate.attention import attention_backends
from sdbatch.diffusion.device.device_checks import DeviceChecks, cuda_graph_error
from sdbatch.diffusion.device.headroom import decode_batch, lanes_that_fit
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.numerics import pin_numerics
from sdbatch.diffusion.device.trial import trial_inputs, trial_outputs
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.lanes import halved, lanes_at
from sdbatch.errors import RunError

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        lanes: at the model's own size; fewer than requested if memory ran out.
        out_of_memory: messages, one for each time that lanes were halved.
        decode_batch: rows per call of the VAE.
        compile: what is compiled of the denoiser, "on", "blocks" or "off"; on CUDA also of the VAE's decoder.
        compile_error: why compilation failed.
        cuda_graph_error: why CUDA graphs are not used; None if they are.
        checks: the device checks, also for further sizes.
        attention: the attention kernels on CUDA, by shape; None on a CPU.
    """

    lanes: int
    decode_batch: int
    out_of_memory: tuple[str, ...]
    compile: str
    compile_error: str | None
    cuda_graph_error: str | None
    checks: DeviceChecks
    attention: dict[str, str] | None


def calibrate(
    family: Family, lanes: int | None, compile: str, sizes: Sequence[tuple[int, int]] = (), min_lanes: int = 2
) -> Calibration:
    """Compile the family's networks if requested, and check the device.

    Args:
        lanes: the number to use if memory allows; None for as many as fit.
        compile: "on", "blocks", "off", or "auto": on CUDA, if there is a compiler.
        sizes: heights and widths to compile besides the model's own.
        min_lanes: minimum of lanes at any size.

    Raises:
        RunError: compilation is required but fails, or not even two lanes fit.
    """
    pin_numerics(family.device)
    memory = _Memory(family, lanes_that_fit(family) if lanes is None else lanes)
    attention = memory.enough_for(pass_attention) if family.device.type == "cuda" else None
    compiled, compile_error, graph_error = "off", None, "compile is off"
    if compile in ("on", "blocks") or (compile == "auto" and family.device.type != "cpu"):
        must, blocks = compile != "auto", compile == "blocks"
        attempt = partial(warm_up, must_compile=must, blocks=blocks, sizes=sizes, min_lanes=min_lanes)
        compile_error = memory.enough_for(attempt)
        if compile_error is None:
            compiled = "blocks" if blocks else "on"
    checks = DeviceChecks(family)
    memory.enough_for(lambda family, lanes: checks.at_the_start(lanes, decode_batch(lanes, family.device)))
    if compiled != "off":
        graph_error = memory.enough_for(cuda_graph_error)
    checks.graphs = graph_error is None
    return Calibration(
        lanes=memory.lanes,
        decode_batch=decode_batch(memory.lanes, family.device),
        out_of_memory=tuple(memory.shortages),
        compile=compiled,
        compile_error=compile_error,
        cuda_graph_error=graph_error,
        checks=checks,
        attention=attention,
    )


class _Memory:
    """The number of lanes that fit into memory, as far as tried."""

    def __init__(self, family: Family, lanes: int):
        self._family = family
        self.lanes = lanes
        self.shortages: list[str] = []

    def enough_for(self, attempt: Callable[[Family, int], Any]) -> Any:
        """Return `attempt(family, lanes)`, with fewer lanes if memory runs out.

        Raises:
            RunError: not even two lanes fit.
        """
        while True:
            try:
                return attempt(self._family, self.lanes)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                forget(error)
                release_cached(self._family.device)
                if self.lanes == 2:
                    info = self._family.info
                    where = f"on {self._family.device} with 2 lanes at {info.height}x{info.width}"
                    raise RunError(f"{info.name} does not fit {where}") from error
            self.shortages.append(f"{self.lanes} lanes halved to {halved(self.lanes)} at the start")
            self.lanes = halved(self.lanes)


@torch.inference_mode()
def warm_up(
    family: Family,
    lanes: int,
    *,
    must_compile: bool,
    blocks: bool = False,
    sizes: Sequence[tuple[int, int]] = (),
    min_lanes: int = 2,
) -> str | None:
    """Run the compiled networks once, at the model's own size and at further ones.

    Args:
        blocks: as in `Family.compile`.
        sizes, min_lanes: as in `calibrate`.

    Returns:
        None, or why compilation fails here; everything then runs uncompiled.

    Raises:
        RunError: compilation is required but fails.
    """
    own = family.latent_shape(family.info.height, family.info.width)
    shapes = list(dict.fromkeys([own, *(family.latent_shape(*size) for size in sizes)]))
    batch = decode_batch(lanes, family.device)
    family.compile(shapes, batch, blocks=blocks)
    try:
        for shape in shapes:
            trial_outputs(family.denoise, *trial_inputs(family, lanes_at(shape[1:], lanes, own[1:], min_lanes), shape))
            if family.device.type == "cuda":
                family.decode(torch.zeros(batch, *shape, device=family.device))
    except Exception as error:  # Dynamo, Inductor, Triton and a C compiler each raise their own errors
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if must_compile:
            message = f"torch.compile fails on this machine ({reason}); use --compile off"
            raise RunError(message) from error
        family.decompile()
        return reason
    return None


@torch.inference_mode()
def pass_attention(family: Family, lanes: int) -> dict[str, str]:
    """The attention kernels of a pass of the UNet and of a decode, by shape, before compilation."""
    shape = family.latent_shape(family.info.height, family.info.width)
    with attention_backends() as found:
        family.denoise(*trial_inputs(family, min(2, lanes)))
        family.decode(torch.zeros(1, *shape, device=family.device))
    return found
