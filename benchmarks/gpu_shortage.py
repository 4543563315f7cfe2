"""Real shortages of a GPU's memory, each in a process of its own: a recording that fails may spoil its process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from gpu_bench import Bench

from sdbatch.diffusion.accelerate.cuda_graph import CudaGraphs
from sdbatch.diffusion.device.headroom import peak_bytes
from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family

__all__ = ["SHORTAGES", "shortage"]

SHORTAGES = ("lanes", "decode", "graphs")
LANES = 512  # of `tiny`: a gigabyte
SHARES = (0.9, 0.6, 0.3, 0.1)  # of the memory that a call takes; libraries report a shortage by different errors


@torch.inference_mode()
def shortage(bench: Bench, part: str) -> None:
    """Let memory run out in a pass ("lanes"), a decode, or a recording ("graphs"), and print what the engine sees.

    Also prints whether the same call makes the same bits once there is memory again.
    """
    family = load_family(inspect_model("tiny"), "fp32" if bench.smoke else "fp16", torch.device(bench.device))
    inputs = trial_inputs(family, 2 if bench.smoke else LANES)

    def run() -> torch.Tensor:
        return family.decode(inputs[0]) if part == "decode" else family.denoise(*inputs)[0]

    wanted = run().clone()
    errors: dict[str, None] = {}
    if bench.smoke:  # a CPU's memory has no limit to set
        errors[error_of(run)] = None
    elif part == "graphs":
        fraction, calls = fraction_with_too_little(family.device, run, SHARES[1]), []

        def denoise(*arguments: object) -> tuple[torch.Tensor, torch.Tensor | None]:
            calls.append(len(calls))
            if len(calls) == 2:  # the first call is not recorded
                limit(fraction)
            return family.denoise(*arguments)

        errors[error_of(lambda: CudaGraphs(denoise)(*inputs))] = None
        limit(1.0)
    else:
        for share in SHARES:
            limit(fraction_with_too_little(family.device, run, share))
            errors[error_of(run)] = None
            limit(1.0)
    same = torch.equal(run(), wanted)
    print(f"{' · '.join(errors)}; afterwards {'the same' if same else 'OTHER'} bits")


def fraction_with_too_little(device: torch.device, run: Callable[[], object], share: float) -> float:
    """The fraction of the device's memory that leaves a call only `share` of what it needs."""
    needed = peak_bytes(device, run)
    release_cached(device)
    total = torch.cuda.get_device_properties(device).total_memory
    return (torch.cuda.memory_allocated(device) + share * needed) / total


def limit(fraction: float) -> None:
    """Limit this process's share of the GPU's memory."""
    torch.cuda.set_per_process_memory_fraction(fraction)


def error_of(run: Callable[[], object]) -> str:
    """The error of a call in one line, and whether the engine takes it for a shortage."""
    try:
        run()
    except Exception as error:  # its kind is the finding
        forget(error)
        kind = "taken for a shortage" if is_out_of_memory(error) else "NOT taken for a shortage"
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]} ({kind})"
    return "no error"
