"""Checks whether other rows of a batch, or CUDA graphs, change a row's bits on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sdbatch.diffusion.accelerate.cuda_graph import CudaGraphs
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.trial import trial_inputs, trial_outputs
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.sampling import TEXT_BATCH

__all__ = ["DeviceChecks", "cuda_graph_error"]

# A CPU that takes longer for one call would spend a minute on checks that CPUs have always passed. Also the limit for
# all sizes of a table together.
PATIENCE_SECONDS = 3.0


class DeviceChecks:
    """Runs every network with the same inputs in other places of the batch, once for each picture size.

    Attributes:
        graphs: whether CUDA graphs are used.
        found: whether the bits were the same, by network and size, such as "denoiser at 512x512"; None if the
            device was too slow for the check, or had no memory for it.
    """

    def __init__(self, family: Family):
        self._family = family
        self._spent = 0.0
        self._shapes: set[tuple[int, int]] = set()
        self.graphs = False
        self.found: dict[str, bool | None] = {}

    @property
    def lane_invariant(self) -> bool | None:
        """Whether bits depend neither on lanes nor on neighbours; None if a check was skipped and none failed."""
        if False in self.found.values():
            return False
        return None if None in self.found.values() else True

    @torch.inference_mode()
    def at_the_start(self, lanes: int, decode_batch: int) -> None:
        """Check all networks at the model's own size. Raises the device's error if memory runs out.

        Args:
            lanes, decode_batch: the batch sizes of the denoiser and the VAE.
        """
        family = self._family
        texts = [Text("prompt", " ".join(["word"] * (1 + i))) for i in range(TEXT_BATCH)]

        def encode(order: torch.Tensor) -> torch.Tensor:
            encoded = family.encode([texts[i] for i in order.tolist()])
            return torch.cat([tensor.reshape(TEXT_BATCH, -1).float() for _, tensor in sorted(encoded.items())], dim=1)

        with family.encoding():
            self.found["text encoder"] = self._is_invariant(encode, TEXT_BATCH)
        self._check_size(family.latent_shape(family.info.height, family.info.width)[1:], lanes, decode_batch)

    @torch.inference_mode()
    def at(self, shape: tuple[int, int], lanes: int, decode_batch: int) -> None:
        """Check the networks at latents of this height and width, if not done yet.

        If the check runs out of memory, lanes are not halved: the rows themselves may fit.
        """
        if shape in self._shapes:
            return
        start = time.perf_counter()
        try:
            self._check_size(shape, lanes, decode_batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
            release_cached(self._family.device)
        self._spent += time.perf_counter() - start

    def _check_size(self, shape: tuple[int, int], lanes: int, decode_batch: int) -> None:
        self._shapes.add(shape)
        family = self._family
        own = family.latent_shape(family.info.height, family.info.width)
        size = f"{family.info.width * shape[1] // own[2]}x{family.info.height * shape[0] // own[1]}"
        self.found |= {f"denoiser at {size}": None, f"VAE at {size}": None}
        latents, timesteps, conditioning = trial_inputs(family, lanes, (own[0], *shape))

        def denoise(order: torch.Tensor) -> torch.Tensor:
            order = order.to(family.device)
            named = {name: tensor[order] for name, tensor in conditioning.items()}
            return trial_outputs(family.denoise, latents[order], timesteps[order], named).transpose(0, 1)

        def decode(order: torch.Tensor) -> torch.Tensor:
            return family.decode(drawn[order.to(family.device)])

        self.found[f"denoiser at {size}"] = self._is_invariant(denoise, lanes)
        drawn = torch.randn(decode_batch, own[0], *shape, generator=torch.Generator().manual_seed(1))
        drawn = drawn.to(family.device)
        self.found[f"VAE at {size}"] = self._is_invariant(decode, decode_batch)
        if self.graphs:
            error = cuda_graph_error(family, lanes, (own[0], *shape))
            self.found[f"CUDA graphs at {size}"] = error is None

    def _is_invariant(self, run: Callable[[torch.Tensor], torch.Tensor], count: int) -> bool | None:
        """Whether the outputs of `run(order)`, one for each of `count` inputs, are the same in any order."""
        on_cpu = self._family.device.type == "cpu"
        if on_cpu and self._spent > PATIENCE_SECONDS:
            return None
        start = time.perf_counter()
        straight = run(torch.arange(count))
        if on_cpu and time.perf_counter() - start > PATIENCE_SECONDS:
            return None
        orders = (torch.arange(count).flip(0), torch.arange(count).roll(count // 2 - 1))
        return all(torch.equal(run(order), straight[order.to(straight.device)]) for order in orders)


@torch.inference_mode()
def cuda_graph_error(family: Family, lanes: int, shape: tuple[int, int, int] | None = None) -> str | None:
    """Why CUDA graphs can't be used here; None if they work and give the same bits."""
    if family.device.type != "cuda":
        return "no CUDA device"
    graphs = CudaGraphs(family.denoise)
    inputs = trial_inputs(family, lanes, shape)
    straight = trial_outputs(family.denoise, *inputs)
    zeros, twos = (torch.full_like(tensor, value) for tensor, value in zip(inputs[:2], (0, 2), strict=True))
    trial_outputs(graphs, zeros, twos, inputs[2])  # recorded with other values than in the replay
    if graphs.error is None and not torch.equal(trial_outputs(graphs, *inputs), straight):
        return "their bits differ from those without"
    return graphs.error
