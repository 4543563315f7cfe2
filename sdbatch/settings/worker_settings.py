"""The workers of a run, their engines, and how they are monitored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.engine_choices import COMPILES, DEVICES, DTYPES, LANES_ON_CPU, QUANTIZATIONS, SWITCHES
from sdbatch.kinds import Choice, Flag, Text
from sdbatch.option_kinds import Pair, Sizes
from sdbatch.settings.setting_groups import APPROXIMATIONS, MONITORING, WORKERS, of_the_run, unimportant

__all__ = ["SECONDS", "WorkerSettings"]

SECONDS = Number(1, 1_000_000_000)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The workers of a run, their engines, and how they are monitored."""

    actors: Annotated[
        tuple[int, int] | None,
        unimportant(
            Pair(":", "N or MIN:MAX", "4 or 1:16", single=True),
            "number of workers; default: as many as the cluster has room for",
            WORKERS,
            metavar="N|MIN:MAX",
        ),
    ] = None
    gpus_per_actor: Annotated[
        float | None,
        unimportant(Number(0, 1_000), "GPUs of each worker; default: 1 on cuda, else 0", WORKERS, metavar="F"),
    ] = None
    cpus_per_actor: Annotated[
        float | None,
        of_the_run(
            Number(0.001, 100_000),
            "CPUs of each worker; on a CPU also the number of threads of its model",
            WORKERS,
            metavar="N",
            fallback=1.0,
            kept_in="engine",
        ),
    ] = None
    lanes: Annotated[
        int | None,
        of_the_run(
            Whole(2, 65_536),
            "batch size of the denoiser; pictures are reproducible only with the same number; "
            f"default: {LANES_ON_CPU} on a CPU, measured on a GPU",
            WORKERS,
            metavar="L",
            kept_in="engine",
        ),
    ] = None
    dtype: Annotated[
        str,
        of_the_run(
            Choice(DTYPES),
            "precision of the networks; default auto: the model's own (fp16 or bf16) on a GPU, fp32 on a CPU",
            WORKERS,
            kept_in="engine",
        ),
    ] = "auto"
    device: Annotated[
        str,
        of_the_run(
            Choice(DEVICES), "device of the networks; default auto: a GPU if Ray has one", WORKERS, kept_in="engine"
        ),
    ] = "auto"
    compile: Annotated[
        str,
        of_the_run(
            Choice(COMPILES),
            "torch.compile; blocks: only the model's repeated blocks, which starts sooner; default auto: on with a GPU",
            WORKERS,
            kept_in="engine",
        ),
    ] = "auto"
    compile_sizes: Annotated[
        str | None,
        of_the_run(
            Sizes(),
            "further picture sizes to compile, such as 768x512,512x768; default: the model's own size only",
            WORKERS,
            metavar="WxH,…",
            kept_in="engine",
            fallback="",
            before="",
        ),
    ] = None
    release_text_encoders: Annotated[
        str,
        unimportant(
            Choice(SWITCHES),
            "text encoders leave the GPU while the denoiser runs; default auto: if memory is short",
            WORKERS,
        ),
    ] = "auto"
    same_device: Annotated[bool, unimportant(Flag(), "refuse workers on different kinds of GPU", WORKERS)] = False
    quantization: Annotated[
        str | None,
        of_the_run(
            Choice(QUANTIZATIONS),
            "int8: weights of the denoiser in eight bits, for less memory; fp8: its linear layers, not its "
            "convolutions, also multiply in eight bits, on GPUs of compute capability 8.9 or newer",
            APPROXIMATIONS,
            kept_in="engine",
            fallback="none",
            before="none",
        ),
    ] = None
    deep_cache: Annotated[
        int | None,
        of_the_run(
            Whole(1, 1_000_000),
            "run the inner layers of the denoiser only on every N-th call of a row: faster",
            APPROXIMATIONS,
            metavar="N",
            kept_in="engine",
            fallback=1,
            before=1,
        ),
    ] = None
    address: Annotated[
        str | None,
        unimportant(Text(), "an existing Ray cluster; default: RAY_ADDRESS, else a local one", WORKERS, metavar="ADDR"),
    ] = None
    start_timeout: Annotated[
        float, unimportant(SECONDS, "seconds without a worker after which the run gives up", MONITORING, metavar="X")
    ] = 1800.0
    stall_timeout: Annotated[
        float,
        unimportant(SECONDS, "seconds without progress after which a worker is restarted", MONITORING, metavar="X"),
    ] = 1200.0
    price_per_hour: Annotated[
        float | None,
        unimportant(Number(0, 1_000_000_000), "price of one worker, to report costs", MONITORING, metavar="X"),
    ] = None
