"""Computes how many lanes fit into a device's memory beside everything else."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sdbatch.diffusion.calls import weight_bytes
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.device.gpu_room import must_take_turns
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.engine_choices import LANES_ON_CPU
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.samplers.coefficients import MAX_DEPTH

__all__ = ["available_bytes", "decode_batch", "lanes_that_fit", "peak_bytes", "releases_text_encoders", "share_gpu"]

# More lanes than this make no large GPU faster, and the last rows of a run waste them.
MAX_LANES = 64
# Share of the available memory to use: a fragmented allocator, texts and libraries need the rest.
MEMORY_SHARE = 0.9
# Float32 latents of a lane and a pass: past latents and outputs, noise, and those of the step itself.
LATENTS_PER_LANE = 2 * MAX_DEPTH + 8


def decode_batch(lanes: int, device: torch.device) -> int:
    """Rows per call of the VAE: enough to keep a device busy, few enough to be collected quickly."""
    if device.type == "cpu" and lanes >= 32:
        return 8
    return 2 if lanes < 16 else 4


def share_gpu(fraction: float) -> None:
    """Limit this process to a fraction of its GPU's memory; the rest belongs to other workers."""
    torch.cuda.set_per_process_memory_fraction(fraction)


def releases_text_encoders(
    info: ModelInfo, dtype: str, device: torch.device, choice: str, quantization: str = "none"
) -> bool:
    """Whether text encoders and denoiser take turns on the device.

    Args:
        choice: "on", "off", or "auto": on CUDA, if all weights together leave too little memory for lanes.

    Raises:
        ModelError: it is "on", and the family does not support it.
    """
    family = family_named(info.family)
    if choice == "on":
        family.check_release()
    if choice != "auto":
        return choice == "on"
    if device.type != "cuda" or not family.releases_text_encoders:
        return False
    memory = torch.cuda.get_device_properties(device).total_memory
    return must_take_turns(weight_bytes(info, dtype, quantization), int(memory * _share(device)))


def available_bytes(device: torch.device) -> int:
    """Bytes that this process can still allocate on a CUDA device: free, and within its share."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    kept_by_allocator = torch.cuda.memory_reserved(device) - allocated
    return min(free + kept_by_allocator, int(total * _share(device)) - allocated)


@torch.inference_mode()
def lanes_that_fit(family: Family) -> int:
    """Lanes at the model's own size: 16 on a CPU, on CUDA as many as memory allows, both even and at least 2.

    A pass and a decode run at the same time, on separate streams, so there must be memory for both.
    """
    device = family.device
    if device.type == "cpu":
        return LANES_ON_CPU
    try:
        two, four = (_pass_bytes(family, lanes) for lanes in (2, 4))
        a_picture = _decode_bytes(family)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        forget(error)
        release_cached(device)
        return 2
    a_pass = max(1, (four - two) // 2)
    a_lane = a_pass + _lane_bytes(family)
    once = max(0, two - 2 * a_pass)
    planned = available_bytes(device) * MEMORY_SHARE
    for lanes in range(MAX_LANES, 2, -2):
        if once + lanes * a_lane + decode_batch(lanes, device) * a_picture <= planned:
            return lanes
    return 2


def _pass_bytes(family: Family, lanes: int) -> int:
    inputs = trial_inputs(family, lanes)
    return peak_bytes(family.device, lambda: family.denoise(*inputs))


def _decode_bytes(family: Family) -> int:
    """Bytes of decoding one picture; a batch takes a multiple."""
    latents = trial_inputs(family, 1)[0]
    return peak_bytes(family.device, lambda: family.decode(latents))


def _lane_bytes(family: Family) -> int:
    """Conditioning, for which a CUDA graph takes no second copy, latents, and deep features, which it does copy."""
    latents, timesteps, conditioning = trial_inputs(family, 2)
    kept = sum(tensor.nbytes for tensor in conditioning.values()) + LATENTS_PER_LANE * latents.nbytes
    features = family.denoise(latents, timesteps, conditioning)[1]
    return (kept + (0 if features is None else 2 * features.nbytes)) // 2


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """Additional bytes at the peak of a call on a CUDA device."""
    run()  # libraries set themselves up in their first call, which does not count
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _share(device: torch.device) -> float:
    """The fraction of the device that this process may use; unknown before torch 2.8."""
    tell = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if tell is None else tell(device)
