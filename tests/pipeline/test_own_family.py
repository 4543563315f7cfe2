"""A family from another package, with its own setting, through the whole command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import sdbatch
from tests.conftest import REPOSITORY
from tests.outputs import write_table

DECLARATION = """
from sdbatch.bounds import Number
from sdbatch.diffusion.checkpoints.architectures import FLOW_SCHEDULER
from sdbatch.diffusion.families.declaration import UNGUIDED, Declaration, scheduler
from sdbatch.fields import Field


class Greys(Declaration):
    name, title, pipelines = "greys", "Greys", ("GreysPipeline",)
    parts = (scheduler(FLOW_SCHEDULER),)
    engine = "greys_engine:Greys"
    samplers = ("flow_euler",)
    defaults = {"sampler": "flow_euler", "steps": 1, "guidance_scale": 1.0, "dtype": "fp32"}
    uses = UNGUIDED
    fields = (Field(name="light", kind=Number(0, 1), default=1.0, help="how bright"),)

    def inspect(self, index, configs):
        return self.model_info(
            configs["scheduler"], prediction_type="flow_prediction", height=16, width=16, size_multiple=8, max_tokens=8
        )

    def guidance(self, request, info):
        return 1.0
"""
ENGINE = '''
import torch
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Family


class Greys(Family):
    """A picture as bright as its prompt is long."""

    @classmethod
    def of(cls, checkpoint):
        family = cls(checkpoint.info, checkpoint.scheduler_config, checkpoint.index)
        family.denoiser, family.device, family.dtype = torch.nn.Identity(), checkpoint.device, checkpoint.dtype
        return family

    def latent_shape(self, height, width):
        return 3, height, width

    def count_tokens(self, text):
        return len(text.split())

    def texts(self, request):
        return [Text("prompt", request.prompt)]

    def encode(self, texts):
        return {"grey": torch.tensor([len(text.content) / 100.0 for text in texts])}

    def conditioning(self, request, encoded, shape):
        return [{"grey": encoded[0]["grey"] * request.extra["light"]}]

    def denoise(self, latents, timesteps, conditioning, features=None):
        return latents - conditioning["grey"].view(-1, 1, 1, 1), None

    def decode(self, latents):
        return latents
'''


def bring(folder: Path) -> None:
    """A package as pip would leave it."""
    (folder / "greys.py").write_text(DECLARATION)
    (folder / "greys_engine.py").write_text(ENGINE)
    about = folder / "greys-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: greys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sdbatch.families]\ngreys = greys:Greys\n")


def build_model(folder: Path) -> Path:
    (folder / "scheduler").mkdir(parents=True)
    index = {"_class_name": "GreysPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def generate(tmp_path: Path, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
    table = write_table(
        tmp_path / "prompts.parquet", {"prompt": ["x" * 10, "x" * 60, "x" * 60], "light": [None, None, 0.0]}
    )
    arguments = ("generate", table, tmp_path / "out", "--model", tmp_path / "model", *options)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), path]))
    command = [sys.executable, "-m", "sdbatch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_a_family_that_another_package_brings(tmp_path):
    (tmp_path / "site").mkdir()
    bring(tmp_path / "site")
    build_model(tmp_path / "model")
    assert "GreysPipeline is not a pipeline" in generate(tmp_path).stderr
    process = generate(tmp_path, "--lanes", "2", "--light", "0.5", path=str(tmp_path / "site"))
    assert process.returncode == 0, process.stderr
    pictures = [np.asarray(row["image"]) for row in sdbatch.open(str(tmp_path / "out"))]
    assert [sorted(set(picture.flatten().tolist())) for picture in pictures] == [[134], [166], [128]]
    refused = generate(tmp_path, "--sampler", "ddim", path=str(tmp_path / "site"))
    assert refused.returncode == 2 and "Greys, which has: flow_euler" in refused.stderr
