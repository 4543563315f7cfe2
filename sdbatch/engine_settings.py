"""Engine settings of one OUT: resolved once, kept in run.json, used by every later run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sdbatch.bounds import Whole
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.engine_choices import COMPILES, DEVICES, DTYPES, LANES_ON_CPU, QUANTIZATIONS
from sdbatch.errors import UsageError
from sdbatch.option_kinds import Sizes
from sdbatch.settings import NUMBERS, RUN_FIELDS, RunSettings

__all__ = ["EngineSettings", "resolve_engine"]

# The possible values once resolved; only lanes may still be unknown.
CHOICES = {
    "device": tuple(name for name in DEVICES if name != "auto"),
    "dtype": tuple(name for name in DTYPES if name != "auto"),
    "compile": tuple(name for name in COMPILES if name != "auto"),
    "quantization": QUANTIZATIONS,
}
THREADS = Whole(1, 100_000)
# The settings of outputs from before each was one.
BEFORE = {field.name: field.before for field in RUN_FIELDS if field.kept_in == "engine"}


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The arguments of `sdbatch.diffusion.Engine` except the model; the same for every worker of an OUT.

    Attributes:
        lanes: None until measured.
        threads: number of CPU threads; None on a GPU, or for torch's default.
        compile_sizes: as `option_kinds.Sizes` writes them.

    Raises:
        UsageError: an invalid value; the message names the setting.
    """

    device: str
    dtype: str
    lanes: int | None
    threads: int | None
    compile: str
    quantization: str = BEFORE["quantization"]
    deep_cache: int = BEFORE["deep_cache"]
    compile_sizes: str = BEFORE["compile_sizes"]

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.lanes is not None and NUMBERS["lanes"].check("lanes", self.lanes) % 2:
            raise UsageError(f"lanes is {self.lanes}; expected an even number, since a row with guidance takes two")
        if self.threads is not None:
            THREADS.check("threads", self.threads)
        NUMBERS["deep_cache"].check("deep_cache", self.deep_cache)
        Sizes().check("compile_sizes", self.compile_sizes)

    def arguments(self) -> dict[str, Any]:
        """The settings by name, as in `Engine` and in the manifest."""
        return dataclasses.asdict(self)


def resolve_engine(
    settings: RunSettings, recorded: EngineSettings | None, model: ModelInfo, *, has_gpus: bool
) -> EngineSettings:
    """Resolve the engine settings of a run; lanes None means: measure, then record.

    Threads matter on a CPU only: convolutions split their sums over threads, which changes rounding.

    Raises:
        UsageError: a setting differs from the one that OUT was started with, which would change the pictures.
    """
    device = _chosen("device", settings.device, recorded, "cuda" if has_gpus else "cpu")
    on_cpu = device == "cpu"
    return EngineSettings(
        device=device,
        dtype=_chosen("dtype", settings.dtype, recorded, "fp32" if on_cpu else model.defaults["dtype"]),
        lanes=_chosen("lanes", settings.lanes, recorded, LANES_ON_CPU if on_cpu else None),
        threads=_threads(settings, recorded) if on_cpu else None,
        compile=_chosen("compile", settings.compile, recorded, "off" if on_cpu else "on"),
        quantization=_chosen("quantization", settings.quantization, recorded, settings.value("quantization")),
        deep_cache=_chosen("deep-cache", settings.deep_cache, recorded, settings.value("deep_cache")),
        compile_sizes=_chosen("compile-sizes", settings.compile_sizes, recorded, settings.value("compile_sizes")),
    )


def _threads(settings: RunSettings, recorded: EngineSettings | None) -> int:
    threads = max(1, int(settings.value("cpus_per_actor")))
    given = None if settings.cpus_per_actor is None else threads
    return int(_chosen("cpus-per-actor", given, recorded, threads, name="threads"))


def _chosen(option: str, wanted: Any, recorded: EngineSettings | None, default: Any, name: str | None = None) -> Any:
    before = None if recorded is None else getattr(recorded, name or option.replace("-", "_"))
    if wanted in ("auto", None):
        return default if before is None else before
    if before is not None and wanted != before:
        started = f"with --{option} {before}" if before != "" else f"without --{option}"
        raise UsageError(
            f"OUT was started {started}, this run has {wanted}, which makes different pictures; "
            f"omit --{option}, use another OUT, or --overwrite to replace this one"
        )
    return wanted
