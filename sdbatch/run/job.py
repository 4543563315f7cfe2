"""What every worker of a run receives, and how it makes its engine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle

from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import ModelError
from sdbatch.model_source import ModelSource, check_recorded
from sdbatch.output import ModelLabel
from sdbatch.output.manifest import versions
from sdbatch.prompts import Columns, InputFile
from sdbatch.prompts.lora_cells import LoraReader, recorded_loras
from sdbatch.resolution import task_name
from sdbatch.row_networks import finder
from sdbatch.run.faults.same_packages import check_declared
from sdbatch.scoring.judging import judged_engine, scorer_weights
from sdbatch.settings import RunSettings
from sdbatch.storage.store import Store

if TYPE_CHECKING:
    from sdbatch.diffusion import Engine, ModelInfo

__all__ = ["Job", "described", "judged", "load_engine", "measure_lanes", "new_engine", "packed_functions"]

# On clusters, ~/.cache is on the node's disk: kernels are compiled once per node, not once per worker and run.
COMPILED = Path("~/.cache/sdbatch/compiled")


@dataclass(frozen=True)
class Job:
    """The job of every worker of a run: picklable, the same for all.

    `folders` has the folder of each of the table's files, by number, if rows name files relative to it.
    `files` are the table's files, if their rows hold pictures that workers read themselves.
    `scorer_functions` holds the users' own scorers, pickled by value: their modules need not be on the workers.
    `networks` are the manifest's entries of what rows add to the model.
    `declared` are the settings that the driver's packages declare for the run's task and family.
    `make_engine` makes a worker's engine: any object with the interface of `sdbatch.diffusion.Engine`.
    """

    out: Store
    settings: RunSettings
    columns: Columns
    model: ModelLabel
    source: ModelSource
    recorded_model: Mapping[str, Any]
    engine: EngineSettings
    make_engine: Callable[[Job], Engine]
    declared: Mapping[str, str]
    scorer_weights: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    networks: tuple[Mapping[str, str], ...] = ()
    files: tuple[InputFile, ...] = ()
    scorer_functions: bytes = cloudpickle.dumps({})


def load_engine(job: Job) -> Engine:
    """Make the real engine: fetch the model to this node, compare it with the run's, and load it.

    Raises:
        OtherPackages: this node lacks packages that the run's rows need.
        ModelError, RunError: the model cannot be fetched or loaded, or differs from the run's.
    """
    if family := job.recorded_model.get("family"):  # manifests of 0.1.0 may not say
        check_declared(job.declared, task_name(job.settings), family)
    info = job.source.inspect()
    check_recorded(info, job.recorded_model, job.out.url)
    find = finder(job.networks, info, job.out.url, job.settings.storage_options) if job.networks else None
    engine = new_engine(info, job.settings, job.engine, find, job.networks)
    # Also detects a file that was replaced while it was loaded.
    check_recorded(info, job.recorded_model, job.out.url)
    return engine


def new_engine(
    info: ModelInfo,
    settings: RunSettings,
    engine: EngineSettings,
    find: Callable[[str], Path] | None = None,
    networks: Iterable[Mapping[str, str]] = (),
) -> Engine:
    """Load a model into this process.

    Args:
        find: returns the local path of a network that rows name, such as a ControlNet.
        networks: the manifest's entries of what rows add to the model.

    Raises:
        ModelError, RunError: it cannot be loaded.
    """
    from sdbatch.diffusion import Engine  # imports torch, which the driver does not need

    # What was imported lasts as long as the process: collections that walk through it take a sixth of a worker's start.
    gc.freeze()
    from sdbatch.diffusion.accelerate.compilation import keep_compiled
    from sdbatch.diffusion.device.headroom import share_gpu

    gpus = settings.gpus_per_actor or 1
    if engine.compile != "off":
        keep_compiled(COMPILED.expanduser())
    if engine.device == "cuda" and 0 < gpus < 1:
        share_gpu(gpus)
    merged: tuple[Any, ...] = ()
    if settings.merge_lora:
        reader = LoraReader(settings.lora_dir, settings.storage_options, recorded=recorded_loras(networks))
        merged = reader.merged_files(settings.extra["lora"])
    return Engine(
        info,
        **engine.arguments(),
        release_text_encoders=settings.release_text_encoders,
        merged=merged,
        find_adapter=find,
    )


def judged(engine: Any, job: Job) -> Any:
    """The engine with the run's scorers behind it, if there are any.

    Raises:
        ModelError: a scorer's weights cannot be read, or differ from those of the run.
    """
    if not job.settings.scorer and job.settings.keep is None:
        return engine
    folder = job.source.inspect().folder
    for name, found in scorer_weights(job.settings, folder).items():
        if job.scorer_weights.get(name) != found:
            raise ModelError(f"{job.out.url} was made with other weights of scorer {name} than this worker has")
    functions = cloudpickle.loads(job.scorer_functions)
    return judged_engine(
        engine, job.settings, folder, engine.describe().get("device", "cpu"), functions, job.columns.schema
    )


def packed_functions(functions: Mapping[str, Callable[..., Any]]) -> bytes:
    """Pickle user-defined functions together with their modules, for workers that cannot import these."""
    modules = {sys.modules[function.__module__] for function in functions.values() if hasattr(function, "__module__")}
    own = [module for module in modules if "site-packages" not in str(getattr(module, "__file__", "site-packages"))]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(dict(functions))
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


@ray.remote
def measure_lanes(job: Job) -> tuple[int, dict[str, Any]]:
    """Measure the number of lanes for all workers of an OUT: the one that an engine chooses on its device.

    Returns it, and the engine's description.

    Lanes are measured before anything is compiled, so this engine compiles nothing; the workers do.
    """
    engine = job.make_engine(replace(job, engine=replace(job.engine, compile="off", compile_sizes="")))
    return engine.lanes, described(engine)


def described(engine: Any) -> dict[str, Any]:
    """The description of an engine, with the versions of this process's libraries."""
    return {**engine.describe(), "versions": versions()}
