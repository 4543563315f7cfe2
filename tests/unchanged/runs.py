"""Runs whose pictures and metadata must not change when the code changes.

`python -m tests.unchanged.record` makes them and keeps what they give in `recorded/`. That is done where a picture
changes on purpose, and at no other time: the commit says why.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from tests.diffusion import checkpoints
from tests.outputs import write_table

__all__ = ["RUNS", "Run", "build_models", "build_table", "processor"]

SMALL = {"height": 32, "width": 32}


@dataclass(frozen=True)
class Run:
    """One run of `sdbatch generate`: a model of `build_models`, columns of a table, and options."""

    model: str
    table: Mapping[str, Any]
    options: tuple[str, ...] = field(default=())

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options, with the compression that lossless files had when they were recorded."""
        return self.options if "jpeg" in self.options else (*self.options, "--compression", "small")


def _each_sampler() -> dict[str, list]:
    names = list(SAMPLERS)
    return {
        "prompt": [f"a {('red', 'green', 'blue')[i % 3]} circle, {name}" for i, name in enumerate(names)],
        "sampler": names,
        "steps": [5 + i % 4 for i in range(len(names))],
        "guidance_scale": [(1.0, 3.0, 7.5)[i % 3] for i in range(len(names))],
        "seed": [7000 + i for i in range(len(names))],
        "height": [SMALL["height"]] * len(names),
        "width": [SMALL["width"]] * len(names),
    }


MIXED = {
    "id": pa.array(range(12), pa.int64()),
    "prompt": ["a red circle", "a blue square", "", "two green triangles", "円 🔴", "a red cross"] * 2,
    "negative_prompt": ["blue", None, None, "red", "", "fog"] * 2,
    "seed": pa.array([1, None, 3, 2**40, None, 6] * 2, pa.int64()),
    "num_inference_steps": pa.array([4, 3, None, 6, 2, 5] * 2, pa.int16()),
    "cfg": pa.array([1.0, 7.5, 3.0, None, 0.0, 12.5] * 2, pa.float32()),
    "sampler": ["ddim", "euler", None, "DPM++ 2M Karras", "ddpm", "no such sampler"] * 2,
    "height": pa.array([64, None, 64, 32, 64, 64] * 2, pa.int32()),
    "width": pa.array([64, 96, 64, 64, None, 64] * 2, pa.int32()),
    "tags": pa.array([["a", "b"], [], None, ["c"], [None], ["d"]] * 2, pa.list_(pa.string())),
}
PLAIN = {"prompt": ["a red circle", "a blue square", "a green triangle", "a yellow cross"], "seed": [1, 2, 3, 4]}
QUICK = ("--steps", "4", "--sampler", "ddim")

RUNS: Mapping[str, Run] = {
    "samplers-tiny": Run("tiny", _each_sampler(), ("--shard-size", "8")),
    "samplers-v": Run("sd-v", _each_sampler(), ("--layout", "parquet", "--lanes", "8")),
    "samplers-xl": Run("sdxl", _each_sampler(), ("--layout", "webdataset", "--lanes", "8")),
    "mixed-files": Run("tiny", MIXED, ("--shard-size", "4", "--seed", "9", "--negative-prompt", "grey")),
    "mixed-parquet-jpeg": Run(
        "tiny", MIXED, ("--layout", "parquet", "--image-format", "jpeg", "--images-per-prompt", "2", "--seed", "9")
    ),
    "mixed-tar-webp": Run("tiny", MIXED, ("--layout", "webdataset", "--image-format", "webp", "--shard-size", "4")),
    "rescaled": Run("sd-v", PLAIN, (*QUICK, "--guidance-rescale", "0.7", "--lanes", "4")),
    "limited": Run("tiny", PLAIN, (*QUICK, "--guidance-start", "0.25", "--guidance-stop", "0.75")),
    "deep-cache": Run("tiny", PLAIN, (*QUICK, "--deep-cache", "2")),
    "int8": Run("tiny", PLAIN, (*QUICK, "--quantization", "int8")),
}


def build_models(folder: Path) -> dict[str, str]:
    """What `--model` takes for each model's name."""
    return {
        "tiny": "tiny",
        "sd-v": str(checkpoints.build_sd(folder / "sd-v", prediction_type="v_prediction")),
        "sdxl": str(checkpoints.build_sdxl(folder / "sdxl")),
    }


def build_table(folder: Path, run: Run) -> Path:
    return write_table(folder / "prompts.parquet", dict(run.table))


def processor() -> str:
    """What decides how floating-point numbers round here: bytes are the same where this is."""
    capability = torch.backends.cpu.get_cpu_capability()
    cpuinfo = Path("/proc/cpuinfo")
    fields = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", cpuinfo.read_text(), re.M)) if cpuinfo.exists() else {}
    # Generations that round differently may share a name, not a family and model number.
    names = [fields.get(name, "") for name in ("model name", "cpu family", "model")]
    return " ".join([*names, platform.machine(), capability, f"torch {torch.__version__}"])
